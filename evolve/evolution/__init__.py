"""The evolution of a model: sub-networks searched, trained and proposed as quality tiers."""
