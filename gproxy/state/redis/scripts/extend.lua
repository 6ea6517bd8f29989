-- ARGV: time, call, minimum, requested. Returns the granted money, or nil if the call has no reservation.

local call, minimum, requested = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local reservation = read_reservation(call)
if not reservation.owner then return false end

-- An account that must be loaded, or is in another window, does not know what remains in this one: it ends no call.
local accounts, remaining = {}, math.huge
for field in pairs(reservation) do
  local key = string.match(field, '^money:(.*)$')
  if key then
    local account = read_account(key)
    local is_same = account.window == tonumber(reservation['window:' .. key])
    accounts[key] = is_same
    if is_same and account.loaded and account.cap then
      remaining = math.min(remaining, account.cap - tonumber(account.used) - tonumber(account.reserved))
    end
  end
end

if remaining < minimum then return '0' end
local granted = integer(math.min(requested, remaining))
for key, is_same in pairs(accounts) do
  redis.call('HINCRBY', reservation_name(call), 'money:' .. key, granted)
  if is_same then add(key, 'held', granted) end
end
return granted
