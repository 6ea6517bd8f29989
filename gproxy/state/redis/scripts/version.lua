-- ARGV: time, account. The epoch is added, so that forgetting every account changes all versions.

return tonumber(redis.call('HGET', account_name(ARGV[2]), 'version') or 0) + tonumber(epoch())
