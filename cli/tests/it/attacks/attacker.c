/* What the probes try, each as a phase of a plugin. They stand above. */
#undef main

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "validate")) return 0;
    if (count > 1 && !strcmp(arguments[1], "info")) {
        puts("{\"id\":\"attacker\",\"version\":\"0.1.0\",\"phases\":[@PHASES@]}");
        return 0;
    }
    if (count > 2 && !strcmp(arguments[1], "execute")) {
        for (char *it = arguments[2]; *it; it++) if (*it == '-') *it = '_';
        name = arguments[2];
        const char *file = is("granted") ? (name = "read", "@GRANTED@/file") : "@SECRET@/file";
        long got = attack(file, @VICTIM@);
        if (is("fork") && got == 0) _exit(0);
        if (got < 0) {
            puts("\"refused\"");
            return 0;
        }
    }
    /* Also when it has executed itself. */
    puts("\"open\"");
    return 0;
}
