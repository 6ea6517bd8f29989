-- ARGV: time, call, need, wish. Answers what was granted; nothing, if there is no such hold.

local call, need, wish = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local hold = read_hold(call)
if not hold.owner then return false end

-- An account that has to be loaded, or began another window, cannot say what is left in this one: it stops no call.
local accounts, left = {}, math.huge
for field in pairs(hold) do
  local key = string.match(field, '^money:(.*)$')
  if key then
    local account = read_account(key)
    local is_same = account.window == tonumber(hold['window:' .. key])
    accounts[key] = is_same
    if is_same and account.loaded and account.cap then
      left = math.min(left, account.cap - tonumber(account.used) - tonumber(account.held))
    end
  end
end

if left < need then return '0' end
local granted = whole(math.min(wish, left))
for key, is_same in pairs(accounts) do
  redis.call('HINCRBY', hold_name(call), 'money:' .. key, granted)
  if is_same then add(key, 'held', granted) end
end
return granted
