#!/bin/sh
# The smallest plugin: wraps whatever JSON it is given.
#   echo '"world"' | ./hello.sh execute greet
case "$1 $2" in
'info ') echo '{"id":"hello","version":"0.1.0","phases":["greet"]}' ;;
'validate ') ;;
'execute greet')
    while IFS= read -r line || [ -n "$line" ]; do input=$input$line; done
    printf '{"hello":%s}\n' "${input:-null}"
    ;;
*) echo "usage: $0 execute greet | validate | info" >&2; exit 2 ;;
esac
