"""The demo: a real model under a real surge, three contenders, one table.

- `text`, `minilm`: what is sent, and the model that answers.
- `load`: open-loop sending, timed from the intended send time.
- `plain`: the loop that users run today.
- `static`: the best fixed setting of the same plans, found by a sweep.
- `contenders`: runs each over the same stream and measures it.
- `report`: table, picture, JSON.
- `main`: the order of it all.
- `evolving`, `day`, `day_picture`: a day in minutes, in which the model evolves.
"""
