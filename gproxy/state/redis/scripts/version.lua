-- ARGV: time, account. To forget every account counts in each one's version.

return tonumber(redis.call('HGET', account_name(ARGV[2]), 'version') or 0) + tonumber(epoch())
