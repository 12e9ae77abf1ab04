// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

extern const struct td_command td_command_serve, td_command_ask, td_command_explain, td_command_check,
    td_command_models, td_command_keys, td_command_ledger, td_command_outbox, td_command_eval, td_command_completion,
    td_command_man;

const struct td_command *const td_commands[] = {
    &td_command_serve,  &td_command_ask,        &td_command_explain, &td_command_check,
    &td_command_models, &td_command_keys,       &td_command_ledger,  &td_command_outbox,
    &td_command_eval,   &td_command_completion, &td_command_man,     NULL,
};

struct td_cli_common td_cli;

static bool want_help;

static const struct td_opt common_options[] = {
    {"config", 'c', TD_OPT_STRING, "FILE",
     "configuration file (default: $TANDEM_CONFIG, ./tandem.yaml, then the embedded one)", .string = &td_cli.config},
    {"data-dir", 0, TD_OPT_STRING, "DIR", "where the ledger and keys live (overrides the configuration)",
     .string = &td_cli.data_dir},
    {"json", 0, TD_OPT_FLAG, NULL, "print JSON, for scripts", .flag = &td_cli.json},
    {"no-color", 0, TD_OPT_FLAG, NULL, "no colour, also on a terminal", .flag = &td_cli.no_color},
    {"verbose", 'v', TD_OPT_FLAG, NULL, "log more on standard error", .flag = &td_cli.verbose},
    {"help", 'h', TD_OPT_FLAG, NULL, "this help", .flag = &want_help},
    {0},
};

static const struct td_opt *find(const struct td_opt *options, const char *name, size_t n, char letter) {
    for (; options && options->name; options++)
        if (letter ? options->letter == letter : strlen(options->name) == n && memcmp(options->name, name, n) == 0)
            return options;
    return NULL;
}

static int set(const struct td_opt *o, const char *value) {
    char *end;
    switch (o->type) {
    case TD_OPT_FLAG:
        *o->flag = true;
        return 0;
    case TD_OPT_STRING:
        *o->string = value;
        return 0;
    case TD_OPT_NUMBER:
        *o->number = strtol(value, &end, 10);
        if (*value == 0 || *end != 0 || *o->number < o->min || *o->number > o->max)
            return td_cli_fail(TD_EXIT_USAGE, "--%s wants a whole number from %ld to %ld, not '%s'", o->name, o->min,
                               o->max, value);
        return 0;
    }
    return TD_EXIT_USAGE;
}

// Takes one option (and its value) off argv at *i. Returns 0 or an exit code.
static int take_option(const struct td_command *command, int argc, char **argv, int *i) {
    const char *arg = argv[*i], *value = NULL;
    const struct td_opt *o;
    if (arg[1] == '-') {
        const char *equals = strchr(arg + 2, '=');
        size_t n = equals ? (size_t)(equals - arg - 2) : strlen(arg + 2);
        o = find(command ? command->options : NULL, arg + 2, n, 0);
        o = o ? o : find(common_options, arg + 2, n, 0);
        value = equals ? equals + 1 : NULL;
    } else {
        o = find(command ? command->options : NULL, NULL, 0, arg[1]);
        o = o ? o : find(common_options, NULL, 0, arg[1]);
        value = o && o->type != TD_OPT_FLAG && arg[2] ? arg + 2 : NULL;
        if (o && o->type == TD_OPT_FLAG && arg[2])
            o = NULL;
    }
    if (!o)
        return td_cli_fail(TD_EXIT_USAGE, "unknown option %s (try --help)", arg);
    if (o->type == TD_OPT_FLAG && value)
        return td_cli_fail(TD_EXIT_USAGE, "--%s takes no value", o->name);
    if (o->type != TD_OPT_FLAG && !value) {
        if (*i + 1 >= argc)
            return td_cli_fail(TD_EXIT_USAGE, "--%s needs %s", o->name, o->value);
        value = argv[++*i];
    }
    return set(o, value);
}

static void help_options(const struct td_opt *options, FILE *out) {
    for (; options && options->name; options++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s --%s%s%s", options->letter ? "-" : " ",
                 options->letter ? options->letter : ' ', options->letter ? "," : " ", options->name,
                 options->value ? " " : "", options->value ? options->value : "");
        fprintf(out, "  %-28s %s\n", left, options->help);
    }
}

void td_cli_help(const struct td_command *command, FILE *out) {
    fprintf(out, "usage: tandem %s [options]%s%s\n\n%s.\n", command->name, *command->arguments ? " " : "",
            command->arguments, command->help);
    if (command->details)
        fprintf(out, "\n%s\n", command->details);
    if (command->options && command->options->name) {
        fprintf(out, "\noptions:\n");
        help_options(command->options, out);
    }
    fprintf(out, "\ncommon options:\n");
    help_options(common_options, out);
}

void td_cli_usage(FILE *out) {
    fprintf(out,
            "Tandem %s: AI requests answered on this machine, nearby or in the cloud, each where it belongs.\n\n"
            "usage: tandem COMMAND [options] …\n\ncommands:\n",
            td_version());
    for (int i = 0; td_commands[i]; i++)
        fprintf(out, "  %-12s %s\n", td_commands[i]->name, td_commands[i]->help);
    fprintf(out, "\n  tandem COMMAND --help tells more; --version prints the version.\n");
}

static int completion_options(const struct td_opt *o, FILE *out) {
    for (; o && o->name; o++)
        fprintf(out, " --%s", o->name);
    return 0;
}

// A text inside single quotes, as fish reads them.
static void fish_text(const char *text, FILE *out) {
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('\'', out);
}

static void fish_options(const char *command, const struct td_opt *o, FILE *out) {
    for (; o && o->name; o++) {
        fprintf(out, "complete -c tandem -n '__fish_seen_subcommand_from %s' -l %s", command, o->name);
        if (o->letter)
            fprintf(out, " -s %c", o->letter);
        if (o->type != TD_OPT_FLAG)
            fputs(o->value && (strcmp(o->value, "FILE") == 0 || strcmp(o->value, "DIR") == 0) ? " -rF" : " -x", out);
        fputs(" -d ", out);
        fish_text(o->help, out);
        fputc('\n', out);
    }
}

static int fish_completion(FILE *out) {
    for (int i = 0; td_commands[i]; i++) {
        const struct td_command *c = td_commands[i];
        fprintf(out, "complete -c tandem -f -n __fish_use_subcommand -a %s -d ", c->name);
        fish_text(c->help, out);
        fputc('\n', out);
        for (int v = 0; c->verbs && c->verbs[v]; v++)
            fprintf(out, "complete -c tandem -f -n '__fish_seen_subcommand_from %s' -a %s\n", c->name, c->verbs[v]);
        fish_options(c->name, c->options, out);
        fish_options(c->name, common_options, out);
    }
    return TD_EXIT_OK;
}

int td_cli_completion(const char *shell, FILE *out) {
    if (strcmp(shell, "fish") == 0)
        return fish_completion(out);
    if (strcmp(shell, "bash") != 0 && strcmp(shell, "zsh") != 0)
        return td_cli_fail(TD_EXIT_USAGE, "completion knows bash, zsh and fish, not '%s'", shell);
    if (strcmp(shell, "zsh") == 0)
        fprintf(out, "#compdef tandem\nautoload -Uz bashcompinit && bashcompinit\n");
    fprintf(out, "_tandem() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n  if [ $COMP_CWORD -eq 1 ]; then words=\"");
    for (int i = 0; td_commands[i]; i++)
        fprintf(out, "%s%s", i ? " " : "", td_commands[i]->name);
    fprintf(out, "\"; else case ${COMP_WORDS[1]} in\n");
    for (int i = 0; td_commands[i]; i++) {
        fprintf(out, "    %s) words=\"", td_commands[i]->name);
        for (int v = 0; td_commands[i]->verbs && td_commands[i]->verbs[v]; v++)
            fprintf(out, "%s ", td_commands[i]->verbs[v]);
        completion_options(td_commands[i]->options, out);
        completion_options(common_options, out);
        fprintf(out, "\" ;;\n");
    }
    fprintf(out, "  esac; fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n  [ ${#COMPREPLY[@]} -eq 0 ] && "
                 "COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -F _tandem tandem\n");
    return TD_EXIT_OK;
}

static void man_options(const struct td_opt *o, FILE *out) {
    for (; o && o->name; o++) {
        fputs(".TP\n", out);
        if (o->letter)
            fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
        fprintf(out, "\\fB\\-\\-%s\\fR%s%s\n%s\n", o->name, o->value ? " " : "", o->value ? o->value : "", o->help);
    }
}

void td_cli_man(FILE *out) {
    fprintf(
        out,
        ".TH TANDEM 1 \"\" \"Tandem %s\"\n.SH NAME\ntandem \\- hybrid AI runtime\n.SH SYNOPSIS\n\\fBtandem\\fR "
        "COMMAND [options] ...\n.SH DESCRIPTION\nAnswers AI requests where they belong: on this machine, nearby or in "
        "the cloud. It speaks the API that OpenAI clients use, decides for each request which model may and shall "
        "answer, falls back both ways, works offline, and records every attempt.\n.SH COMMANDS\n",
        td_version());
    for (int i = 0; td_commands[i]; i++) {
        fprintf(out, ".SS tandem %s %s\n%s.\n", td_commands[i]->name, td_commands[i]->arguments, td_commands[i]->help);
        if (td_commands[i]->details)
            fprintf(out, ".PP\n%s\n", td_commands[i]->details);
        man_options(td_commands[i]->options, out);
    }
    fprintf(out, ".SH COMMON OPTIONS\n");
    man_options(common_options, out);
    fprintf(
        out,
        ".SH EXIT STATUS\n.TP\n0\nsuccess\n.TP\n1\nthe operation failed\n.TP\n2\nwrong usage, or an invalid "
        "configuration\n.TP\n3\na running daemon is needed and there is none\n.TP\n130\ncancelled\n"
        ".SH ENVIRONMENT\n.TP\nTANDEM_CONFIG\nthe configuration file\n.TP\nNO_COLOR\nno colour\n.TP\n"
        "HF_ENDPOINT, HF_TOKEN\na mirror of Hugging Face, and the token for it\n"
        ".SH FILES\n.TP\ntandem.yaml\nthe configuration, where none is named\n.TP\n~/.local/share/tandem\n"
        "the data directory: ledger, outbox, keys, models, and tandem.sock, through which the commands reach the "
        "daemon\n.SH EXAMPLES\n.nf\ntandem serve\ntandem ask \"set a timer for 10 minutes\"\ntandem explain "
        "\"who won the match yesterday?\"\ntandem models pull owner/name:file.gguf\ntandem ledger tail \\-f\n.fi\n");
}

// How many letters apart (Levenshtein 1965), for words as short as commands.
static size_t distance(const char *a, const char *b) {
    size_t row[32], n = strlen(b);
    if (n >= 32)
        return n;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (*a != b[j - 1]), less = row[j] < row[j - 1] ? row[j] : row[j - 1];
            diagonal = row[j];
            row[j] = change < less + 1 ? change : less + 1;
        }
    }
    return row[n];
}

static int unknown_command(const char *word) {
    const struct td_command *near = NULL;
    for (int i = 0; td_commands[i]; i++)
        if (distance(word, td_commands[i]->name) <= 2 && strlen(word) > 2)
            near = td_commands[i];
    return near ? td_cli_fail(TD_EXIT_USAGE, "unknown command '%s'; did you mean '%s'?", word, near->name)
                : td_cli_fail(TD_EXIT_USAGE, "unknown command '%s' (try tandem --help)", word);
}

// A core dump would hold prompts, answers and keys. With a limit of one byte the kernel writes no file and, other than
// with none, starts no program that collects dumps either (core(5) and fs/coredump.c of Linux). The hard limit stays:
// whoever hunts a fault may raise this one (prlimit --core).
static void leave_no_dump(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max < 1)
        return;
    limit.rlim_cur = 1;
    setrlimit(RLIMIT_CORE, &limit);
}

// A file that is opened must not become standard output because that was closed.
static void keep_standard_descriptors(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int run(int argc, char **argv) {
    const struct td_command *command = NULL;
    if (argc < 2) {
        td_cli_usage(stderr);
        return TD_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tandem %s\n", td_version());
        return TD_EXIT_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        td_cli_usage(stdout);
        return TD_EXIT_OK;
    }
    int first = 1; // what every command shares may stand before it
    for (; first < argc && argv[first][0] == '-'; first++) {
        int code = take_option(NULL, argc, argv, &first);
        if (code)
            return code;
    }
    for (int i = 0; first < argc && td_commands[i]; i++)
        if (strcmp(argv[first], td_commands[i]->name) == 0)
            command = td_commands[i];
    if (!command)
        return first < argc ? unknown_command(argv[first])
                            : td_cli_fail(TD_EXIT_USAGE, "no command (try tandem --help)");
    int rest = 0;
    bool options_over = false;
    for (int i = first + 1; i < argc; i++) {
        if (options_over || argv[i][0] != '-' || argv[i][1] == 0) {
            argv[rest++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            options_over = true;
        } else {
            int code = take_option(command, argc, argv, &i);
            if (code)
                return code;
        }
    }
    if (want_help) {
        td_cli_help(command, stdout);
        return TD_EXIT_OK;
    }
    argv[rest] = NULL;
    return command->run(rest, argv);
}

int main(int argc, char **argv) {
    leave_no_dump();
    keep_standard_descriptors();
    signal(SIGPIPE, SIG_IGN);
    return td_cli_end(run(argc, argv));
}
