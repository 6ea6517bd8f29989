-- ARGV: time, call, money, tokens, since, then accounts and windows. An account in which the call has no reservation is
-- credited.

for i = 6, #ARGV, 2 do
  local key, window = ARGV[i], tonumber(ARGV[i + 1])
  if redis.call('HEXISTS', reservation_name(ARGV[2]), 'money:' .. key) == 0 then
    credit(key, window, ARGV[3], tonumber(ARGV[5]))
  end
end
end_reservation(ARGV[2], ARGV[3], tonumber(ARGV[4]))
