"""An import that does not end by itself."""

import threading

threading.Event().wait()
