-- ARGV: time, call.

end_hold(ARGV[2], '0')
