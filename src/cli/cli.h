// SPDX-License-Identifier: Apache-2.0
// The command line's own plumbing: one table row and one file per subcommand, options parsed from one table per command
// (which also makes --help, the shell completion and the man page), output that scripts and people both like.
//
// How to add a command: write src/cli/<name>.c with a `const struct td_command td_command_<name>`, add it to the list
// in main.c and to meson.build. Help, completion and man page follow from the table.
#ifndef TD_CLI_CLI_H
#define TD_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/json.h"
#include "tandem/admin.h"

// Exit codes, the same for every command (documented in the man page).
enum {
    TD_EXIT_OK = 0,
    TD_EXIT_FAILED = 1,    // the operation failed: no target, upstream error, not found
    TD_EXIT_USAGE = 2,     // wrong usage or an invalid configuration
    TD_EXIT_NO_DAEMON = 3, // needs a running daemon, and there is none
    TD_EXIT_CANCELLED = 130
};

enum td_opt_type { TD_OPT_FLAG, TD_OPT_STRING, TD_OPT_NUMBER };

// One option. `name` without dashes; `letter` 0 for none; `value` is what --help calls the argument. The parsed value
// goes to flag, string or number, which must be static storage of the command.
struct td_opt {
    const char *name;
    char letter;
    enum td_opt_type type;
    const char *value, *help;
    bool *flag;
    const char **string;
    long *number;
    long min, max; // of number
};

struct td_command {
    const char *name;
    const char *arguments;             // "[TEXT]", for the usage line
    const char *help;                  // one line
    const char *details;               // more, for --help and the man page; NULL none
    const struct td_opt *options;      // ends with name NULL
    const char *const *verbs;          // subcommands for completion, NULL-terminated; NULL none
    int (*run)(int argc, char **argv); // what is left after the options
};

extern const struct td_command *const td_commands[]; // NULL-terminated

// What every command shares: --config, --data-dir, --json, --no-color, --verbose, --help.
struct td_cli_common {
    const char *config, *data_dir;
    bool json, no_color, verbose;
};
extern struct td_cli_common td_cli;

// Colour codes, "" where standard output is no terminal or colour is unwanted (NO_COLOR).
const char *td_cli_dim(void);
const char *td_cli_bold(void);
const char *td_cli_red(void);
const char *td_cli_green(void);
const char *td_cli_reset(void);
bool td_cli_stderr_is_terminal(void);

// Writes text that came from elsewhere (a model, a provider, what a client once sent). On a terminal, control
// characters other than tab and line feed are left out, so that it cannot move the cursor, set the title or write to
// the clipboard; into a file or a pipe it goes as it is. `text` is whole characters of UTF-8.
void td_cli_show(FILE *to, struct td_str text);
// What is printed goes out now. False where it cannot (full disk, closed pipe): nobody reads on.
bool td_cli_flush(void);
// The end of the program: `code`, or TD_EXIT_FAILED where what was printed is lost; says so, but for a closed pipe.
int td_cli_end(int code);
// Appends what a file holds; "-" is standard input. TD_ERR_IO (errno says why), TD_ERR_LIMIT, TD_ERR_NOMEM.
enum td_err td_cli_read_file(const char *path, struct td_buf *out) TD_MUST_USE;
// "tandem ask: message" on standard error; returns `code` so that commands can `return td_cli_fail(…)`.
int td_cli_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int td_cli_failure(const struct td_failure *failure);

// Runs an admin method: at the daemon that holds the data directory, or in a runtime of our own where none runs. Prints
// nothing. *result is freed with td_string_free.
int td_cli_admin(const char *method, const char *params, char **result, struct td_failure *failure);
// The same with method "room.verb" and a JSON object of parameters: with --json the result is printed as it is, else
// `show` prints it. An exit code.
int td_cli_operate(const char *room, const char *verb, struct td_buf *params,
                   int (*show)(const char *verb, td_json *root));
// Options for td_runtime_open from the command line and the environment.
void td_cli_options(struct td_options *options);
// The configuration's data directory, resolved (static storage).
const char *td_cli_data_dir(void);

// "$0.0012" from nano-dollars, into a static ring of buffers.
const char *td_cli_money(int64_t nusd);
// Help and completion, from the tables.
void td_cli_help(const struct td_command *command, FILE *out);
void td_cli_usage(FILE *out);
int td_cli_completion(const char *shell, FILE *out);
void td_cli_man(FILE *out);

#endif
