-- ARGV: time, call.

end_reservation(ARGV[2], '0')
