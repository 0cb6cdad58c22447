"""An import after which a process can no longer be copied."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
