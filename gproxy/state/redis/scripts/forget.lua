-- ARGV: time, and an account; without one every account is forgotten.

if ARGV[2] then forget(ARGV[2]) else redis.call('INCR', prefix .. 'epoch') end
