from gevent import monkey; monkey.patch_all()  # noqa: E702 - line 1: nothing may be imported before

from gproxy import server

settings = server.load_settings()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "gproxy.server.GatewayWorker"
# Idle keep-alive connections count too.
worker_connections = 2 * settings.max_inflight + 1000
preload_app = True
reuse_port = False

# Longer than nginx keeps idle connections (60 s), so that nginx sends no request on a connection that is being closed.
# Also limits the time to receive the headers of a request.
keepalive = 75
graceful_timeout = int(settings.grace_s + server.MARGIN_S)
timeout = 60
limit_request_line = 8190
forwarded_allow_ips = ",".join(settings.trusted_proxies)
control_socket_disable = True
worker_tmp_dir = "/dev/shm"
logger_class = "gproxy.server.GatewayLogger"

on_starting = server.on_starting
when_ready = server.when_ready
post_worker_init = server.post_worker_init
post_request = server.post_request
worker_exit = server.worker_exit
