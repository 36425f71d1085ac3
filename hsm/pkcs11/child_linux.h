/* The fast way of a module's process: see child_linux.c. */
#include <stddef.h>

/* opSign of wire.go. */
#define HALLMARK_SIGN 13

/* Added to a length: no other thread waits for questions. */
#define HALLMARK_LAST (1L << 24)

void hallmark_waiting(int n);
int hallmark_functions(const char *path, const void *binding);
long hallmark_serve(int fd, unsigned char *in, size_t size, long have);
