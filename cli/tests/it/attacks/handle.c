/* Says the handle of a file as the numbers of its bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>

int main(int count, char **arguments) {
    static union { struct file_handle it; unsigned char bytes[256]; } room;
    int mount;
    room.it.handle_bytes = 128;
    if (name_to_handle_at(AT_FDCWD, arguments[1], &room.it, &mount, 0)) return 1;
    for (unsigned at = 0; at < sizeof room.it + room.it.handle_bytes; at++)
        printf("%d,", room.bytes[at]);
    return 0;
}
