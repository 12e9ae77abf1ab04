// SPDX-License-Identifier: Apache-2.0
// One chat request from the command line, wherever it can be served: at the daemon that holds the data directory, else
// in a runtime of our own. Blocks until the answer is complete; events come to the callback on the calling thread's
// behalf.
#ifndef TD_CLI_CHAT_H
#define TD_CLI_CHAT_H

#include "base/json.h"
#include "tandem/tandem.h"

struct td_chat_session;

// Decides once where requests go (daemon or own runtime). NULL on failure.
struct td_chat_session *td_chat_session_open(struct td_failure *failure);
void td_chat_session_close(struct td_chat_session *s);
// Sends `body` (an OpenAI chat body with "stream": true) and hands up every event; the last is END or ERROR. Returns
// false when the answer failed. SIGINT during the call cancels it, and so does td_chat_interrupt (any thread).
void td_chat_interrupt(void);
bool td_chat_session_ask(struct td_chat_session *s, struct td_str body, td_answer_fn on_answer, void *user);

// Appends ",\"tools\":[…]" to a body: out of `path` (a list, or an object with the list as `tools`), NULL the assistant
// catalogue where it is installed, else nothing. TD_ERR_IO, TD_ERR_BAD_JSON, TD_ERR_NOMEM; *e says what is wrong with
// which file.
enum td_err td_chat_add_tools(struct td_buf *body, const char *path, struct td_error *e) TD_MUST_USE;

#endif
