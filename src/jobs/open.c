// SPDX-License-Identifier: Apache-2.0
// Opening and closing as an embedder knows it: the runtime, and on top of it the jobs that start exchanges by
// themselves.
#include "jobs/agree.h"
#include "jobs/replay.h"
#include "jobs/webhook.h"

bool td_texts_mean_same(const char *question, const char *first, const char *second) {
    return td_answers_agree(td_str_of(question), td_str_of(first), td_str_of(second));
}

int td_runtime_open(const struct td_options *options, struct td_runtime **out, struct td_failure *failure) {
    struct td_runtime *rt = NULL;
    if (td_runtime_create(options, &rt, failure) != 0)
        return 1;
    if (rt->worker_count &&
        (td_replayer_start(rt, &rt->replayer) != TD_OK || td_webhook_start(rt, &rt->webhook) != TD_OK)) {
        td_replayer_stop(rt->replayer);
        td_runtime_destroy(rt);
        return td_failure_set(failure, TD_ERR_NOMEM, "a thread could not be started");
    }
    *out = rt;
    return 0;
}

void td_runtime_close(struct td_runtime *rt) {
    if (!rt)
        return;
    atomic_store(&rt->draining, true);
    td_runtime_end_calls(rt); // a replay in hand ends as well: the replayer waits for it
    td_replayer_stop(rt->replayer);
    td_webhook_stop(rt->webhook);
    td_runtime_destroy(rt);
}
