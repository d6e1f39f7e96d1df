/* A disk that is slow to make things durable, for LD_PRELOAD: fsync and fdatasync
 *   - are noted, a byte each, in the file SLOW_FSYNC_COUNT,
 *   - take SLOW_FSYNC_MS milliseconds longer,
 *   - and wait for as long as there is a file SLOW_FSYNC_GATE, saying so by a file of that name and ".held".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void rest(long milliseconds)
{
    struct timespec span = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&span, &span) != 0)
        ;
}

static void note(const char *path, int flags)
{
    int descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
    if (descriptor >= 0) {
        if (write(descriptor, ".", 1) != 1)
            abort();
        close(descriptor);
    }
}

static void be_slow(void)
{
    const char *count = getenv("SLOW_FSYNC_COUNT");
    const char *delay = getenv("SLOW_FSYNC_MS");
    const char *gate = getenv("SLOW_FSYNC_GATE");
    char held[4096];

    if (count != NULL)
        note(count, O_APPEND);
    if (delay != NULL)
        rest(atol(delay));
    if (gate == NULL || access(gate, F_OK) != 0)
        return;
    snprintf(held, sizeof held, "%s.held", gate);
    note(held, O_TRUNC);
    while (access(gate, F_OK) == 0)
        rest(1);
}

#define SLOW(name)                                                            \
    int name(int descriptor)                                                  \
    {                                                                         \
        static int (*real)(int);                                              \
        if (real == NULL)                                                     \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name);                     \
        be_slow();                                                            \
        return real(descriptor);                                              \
    }

SLOW(fsync)
SLOW(fdatasync)
