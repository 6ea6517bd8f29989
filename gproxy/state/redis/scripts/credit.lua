-- ARGV: time, account, window, money, since.

credit(ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]))
