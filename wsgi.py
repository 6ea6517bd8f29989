"""The WSGI entry: `gunicorn -c gunicorn.conf.py wsgi:app`."""

from gproxy.app import create_app

app = create_app()
