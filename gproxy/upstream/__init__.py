"""HTTP to upstreams and to the hosts of images. No other room opens a socket to them."""
