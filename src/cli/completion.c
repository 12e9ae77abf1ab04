// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

static int run_completion(int argc, char **argv) {
    if (argc != 1)
        return td_cli_fail(TD_EXIT_USAGE, "completion wants a shell: bash, zsh or fish");
    return td_cli_completion(argv[0], stdout);
}

static int run_man(int argc, char **argv) {
    (void)argv;
    if (argc != 0)
        return td_cli_fail(TD_EXIT_USAGE, "man takes no arguments");
    td_cli_man(stdout);
    return TD_EXIT_OK;
}

static const char *const shells[] = {"bash", "zsh", "fish", NULL};

const struct td_command td_command_completion = {
    .name = "completion",
    .arguments = "bash|zsh|fish",
    .help = "print the shell completion script",
    .details = "For example: source <(tandem completion bash)",
    .verbs = shells,
    .run = run_completion,
};

const struct td_command td_command_man = {
    .name = "man",
    .arguments = "",
    .help = "print the manual page (troff)",
    .details = "For example: tandem man | man -l -",
    .run = run_man,
};
