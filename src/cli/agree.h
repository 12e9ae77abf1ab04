// SPDX-License-Identifier: Apache-2.0
// tandem eval --agree: precision and recall of the judge that says whether two answers mean the same.
#ifndef TD_CLI_AGREE_H
#define TD_CLI_AGREE_H

// Reads lines of {"q","a","b","same","kind"}, judges each pair, prints the table; an exit code.
int td_cli_eval_agree(const char *path);

#endif
