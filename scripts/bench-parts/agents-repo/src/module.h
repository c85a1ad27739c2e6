/* What a module is: one function, and a lot for the compiler to do. */
#define PASTE(a, b) a##b
#define NAME(a, b) PASTE(a, b)

#define STEP(n)                                                             \
    static unsigned NAME(step_, n)(unsigned x) {                            \
        for (unsigned i = 0; i < (n % 7) + 1; i++)                          \
            x = (x ^ (x >> (n % 13 + 1))) * (2654435761u + 2u * n) + i;     \
        return x;                                                           \
    }
#define TEN(n)                                                              \
    STEP(NAME(n, 0)) STEP(NAME(n, 1)) STEP(NAME(n, 2)) STEP(NAME(n, 3))     \
    STEP(NAME(n, 4)) STEP(NAME(n, 5)) STEP(NAME(n, 6)) STEP(NAME(n, 7))     \
    STEP(NAME(n, 8)) STEP(NAME(n, 9))
#define CALL(n) x ^= NAME(step_, n)(x);
#define CALL_TEN(n)                                                         \
    CALL(NAME(n, 0)) CALL(NAME(n, 1)) CALL(NAME(n, 2)) CALL(NAME(n, 3))     \
    CALL(NAME(n, 4)) CALL(NAME(n, 5)) CALL(NAME(n, 6)) CALL(NAME(n, 7))     \
    CALL(NAME(n, 8)) CALL(NAME(n, 9))

TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9)
TEN(10) TEN(11) TEN(12) TEN(13) TEN(14) TEN(15) TEN(16) TEN(17) TEN(18) TEN(19)

static unsigned mixed(unsigned x) {
    CALL_TEN(1) CALL_TEN(2) CALL_TEN(3) CALL_TEN(4) CALL_TEN(5)
    CALL_TEN(6) CALL_TEN(7) CALL_TEN(8) CALL_TEN(9)
    CALL_TEN(10) CALL_TEN(11) CALL_TEN(12) CALL_TEN(13) CALL_TEN(14)
    CALL_TEN(15) CALL_TEN(16) CALL_TEN(17) CALL_TEN(18) CALL_TEN(19)
    return x;
}

/* The module's answer: its revision, and a number that depends on nothing but x. */
void MODULE(unsigned x, unsigned *revision, unsigned *number) {
    *revision = REVISION;
    *number = mixed(x);
}
