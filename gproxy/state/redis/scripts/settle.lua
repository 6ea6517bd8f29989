-- ARGV: time, call, money, tokens, a moment, then accounts and windows. Where an account has no hold of the call, its
-- money is credited.

for i = 6, #ARGV, 2 do
  local key, window = ARGV[i], tonumber(ARGV[i + 1])
  if redis.call('HEXISTS', hold_name(ARGV[2]), 'money:' .. key) == 0 then
    credit(key, window, ARGV[3], tonumber(ARGV[5]))
  end
end
end_hold(ARGV[2], ARGV[3], tonumber(ARGV[4]))
