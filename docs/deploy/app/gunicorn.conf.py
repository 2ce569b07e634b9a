# gunicorn reads this file in the folder where it is started.
import os

from rudderpipe.contrib.gunicorn import on_exit, post_fork, worker_exit  # on_exit: the ring may end with the container

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = 2
preload_app = True
# A recycled worker loses no event.
max_requests = 10_000
max_requests_jitter = 1_000
# The stop of the container must leave time for these seconds, and for shutdown_timeout_s (10 s) after them.
graceful_timeout = 20
# It would be in the user's home, which a container may not have or let be written.
control_socket_disable = True
# The disk of a container may be slow; gunicorn's heartbeat files belong into memory.
worker_tmp_dir = "/dev/shm"
