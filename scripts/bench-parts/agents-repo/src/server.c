/* Answers "MODULE X\n" by "REVISION NUMBER\n", on a port that only one can have. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EACH(name) void name(unsigned, unsigned *, unsigned *);
#include "../build/modules.h"
#undef EACH

static const struct {
    const char *name;
    void (*answer)(unsigned, unsigned *, unsigned *);
} modules[] = {
#define EACH(name) {#name, name},
#include "../build/modules.h"
};

static void serve(int client) {
    char line[128], name[64];
    ssize_t length = read(client, line, sizeof line - 1);
    unsigned x, revision, number;
    if (length <= 0)
        return;
    line[length] = 0;
    if (sscanf(line, "%63s %u", name, &x) != 2)
        return;
    for (size_t n = 0; n < sizeof modules / sizeof *modules; n++)
        if (strcmp(modules[n].name, name) == 0) {
            modules[n].answer(x, &revision, &number);
            dprintf(client, "%u %u\n", revision, number);
        }
}

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    int on = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_port = htons(atoi(argv[1]));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (argc != 2 || bind(server, (void *)&at, sizeof at) != 0 || listen(server, 64) != 0) {
        printf("%s\n", strerror(errno));
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int client = accept(server, NULL, NULL);
        serve(client);
        close(client);
    }
}
