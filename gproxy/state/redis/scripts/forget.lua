-- ARGV: time and an account, or only the time: every account.

if ARGV[2] then forget(ARGV[2]) else redis.call('INCR', prefix .. 'epoch') end
