// SPDX-License-Identifier: Apache-2.0
#include "script.h"

#include "wire/openai_answer.h"

#define FALLBACK .mode = TD_MODE_FALLBACK

static void plain_answers(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"a stream is passed on as it comes",
         {FALLBACK, .steps = "cd"},
         "go 0:on 0:hi 0:'Hel' 0:'lo' 0:stop 0:use,10,2 0:end",
         "S0/cloud:main B0 \"Hel\" \"lo\" R0=ok F:stop D .ok"},
        {"a whole answer is shown when it is whole",
         {FALLBACK, .steps = "c", .whole = true},
         "go 0:on 0:'Hel' 0:'lo' 0:stop 0:end",
         "S0/cloud:main B0 \"Hello\" R0=ok F:stop D .ok"},
        {"an empty answer is an answer",
         {FALLBACK, .steps = "c"},
         "go 0:hi 0:stop 0:end",
         "S0/cloud:main B0 R0=ok F:stop D .ok"},
        {"tool calls keep their pieces in a stream and are joined in a whole answer",
         {FALLBACK, .steps = "c", .whole = true},
         "go 0:*'{' 0:*'}' 0:tools 0:end",
         "S0/cloud:main B0 tool0(f{}) R0=ok F:tools D .ok"},
        {"two choices, interleaved",
         {FALLBACK, .steps = "c", .n = 2},
         "go 0:'a' 0:#1'b' 0:stop 0:#1length 0:end",
         "S0/cloud:main B0 \"a\" #1\"b\" R0=ok F:stop F#1:length D .ok"},
        {"an end without the finish of a choice that spoke is a cut",
         {FALLBACK, .steps = "c", .n = 2},
         "go 0:'a' 0:#1'b' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" #1\"b\" R0=failed E:cut:502 .broken"},
        {"no [DONE] after a finish is no fault",
         {FALLBACK, .steps = "c"},
         "go 0:'a' 0:stop 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=ok F:stop D .ok"},
        {"nor is a connection that stays open after it",
         {FALLBACK, .steps = "c"},
         "go 0:on 0:'a' 0:stop @2500",
         "S0/cloud:main B0 \"a\" X0 R0=ok F:stop D .ok"},
        {"probabilities reach only a client that asked",
         {FALLBACK, .steps = "c", .logprobs = true},
         "go 0:90'a' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" p=0.90 R0=ok F:stop D .ok"},
        {"and also through what was kept",
         {FALLBACK, .steps = "c", .logprobs = true, .whole = true},
         "go 0:90'a' 0:80'b' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" p=0.90 \"b\" p=0.80 R0=ok F:stop D .ok"},
        {"others do not see them",
         {FALLBACK, .steps = "c"},
         "go 0:90'a' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" R0=ok F:stop D .ok"},
        {"half a character waits for its other half",
         {FALLBACK, .steps = "c"},
         "go 0:'a\xe2\x82' 0:'\xac!' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" \"\xe2\x82\xac!\" R0=ok F:stop D .ok"},
        {"vectors",
         {FALLBACK, .steps = "c", .kind = TD_KIND_EMBEDDING, .whole = true},
         "go 0:vec 0:end",
         "S0/cloud:main B0 vector0[4] R0=ok D .ok"},
        {"the end waits for the disk where that was promised",
         {FALLBACK, .steps = "c", .durable = true},
         "go 0:'a' 0:stop 0:end disk",
         "S0/cloud:main B0 \"a\" R0=ok F:stop D .ok"},
        {"and is an error where the disk fails",
         {FALLBACK, .steps = "c", .durable = true},
         "go 0:'a' 0:stop 0:end nodisk",
         "S0/cloud:main B0 \"a\" R0=ok E:ledger:503 .broken"},
        {"a slow client holds the upstream back",
         {FALLBACK, .steps = "c"},
         "go 0:on 0:'a' stall @60000 flow 0:'b' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" P0 U0 \"b\" R0=ok F:stop D .ok"},
        {"a client that went away stops everything",
         {FALLBACK, .steps = "c"},
         "go 0:on 0:'a' gone",
         "S0/cloud:main B0 \"a\" X0 R0=cancelled .gone"},
        {"nobody may answer", {FALLBACK, .steps = ""}, "go", "E:no_target:403 .error"},
        {"the process stops while it runs",
         {FALLBACK, .steps = "c"},
         "go 0:'a' abort",
         "S0/cloud:main B0 \"a\" X0 R0=cancelled E:overload:503 .broken"},
    };
    RUN_ROWS(rows);
}

static void faults_before_the_first_byte(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"500 once: the same again",
         {FALLBACK, .steps = "cd", .retries = 2},
         "go 0:on 0:!UPSTREAM_SERVER,500 @400 1:'a' 1:stop 1:end",
         "S0/cloud:main R0=failed S1/cloud:main! B1 \"a\" R1=ok F:stop D .ok"},
        {"503 for ever: twice more, then the next; the answer is a lesser one",
         {FALLBACK, .steps = "cd", .retries = 2},
         "go 0:!UPSTREAM_SERVER,503 @400 1:!UPSTREAM_SERVER,503 @1200 2:!UPSTREAM_SERVER,503 3:'a' 3:stop 3:end",
         "S0/cloud:main R0=failed S1/cloud:main! R1=failed S2/cloud:main! R2=failed S3/device:main B3 \"a\" R3=ok "
         "F:stop D~ .degraded"},
        {"no room in the retry budget: the next at once",
         {FALLBACK, .steps = "cd", .retries = 2},
         "-retry go 0:!UPSTREAM_SERVER,500 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"Retry-After is waited for, no less",
         {FALLBACK, .steps = "cd", .retries = 1},
         "go 0:!UPSTREAM_RATE,429,1000 @999 @1200 1:stop 1:end",
         "S0/cloud:main R0=failed S1/cloud:main! B1 R1=ok F:stop D .ok"},
        {"a long Retry-After: the next",
         {FALLBACK, .steps = "cd", .retries = 1},
         "go 0:!UPSTREAM_RATE,429,20000 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"a 429 that does not say how long: the next at once",
         {FALLBACK, .steps = "cd", .retries = 1},
         "go 0:!UPSTREAM_RATE,429 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"and where nobody is left it is given a moment",
         {FALLBACK, .steps = "c", .retries = 1},
         "go 0:!UPSTREAM_RATE,429 @999 @1200 1:stop 1:end",
         "S0/cloud:main R0=failed S1/cloud:main! B1 R1=ok F:stop D .ok"},
        {"nobody else: a Retry-After beyond the deadline is passed on",
         {FALLBACK, .steps = "c", .retries = 1, .deadline_ms = 5000},
         "go 0:!UPSTREAM_RATE,429,20000",
         "S0/cloud:main R0=failed E:upstream_rate:429 after=20000 .error"},
        {"a refused connection: the next first, then again",
         {FALLBACK, .steps = "cs", .retries = 1},
         "go 0:!CONNECT 1:!UPSTREAM_AUTH,401 @500 2:stop 2:end",
         "S0/cloud:main R0=failed S1/spare:main R1=failed S2/cloud:main! B2 R2=ok F:stop D .ok"},
        {"a connection that hangs leaves the next one time; the last one has all it wants",
         {FALLBACK, .steps = "csd", .connect_ms = 1500, .connect_late_ms = 250},
         "go @1500 0:!CONNECT @1750 1:!DNS 2:'a' 2:stop 2:end",
         "S0/cloud:main connect=1500 R0=failed S1/spare:main connect=250 R1=failed S2/device:main B2 \"a\" R2=ok "
         "F:stop "
         "D~ .degraded"},
        {"one that is refused at once costs nothing",
         {FALLBACK, .steps = "csd", .connect_ms = 1500, .connect_late_ms = 250},
         "go 0:!CONNECT 1:stop 1:end",
         "S0/cloud:main connect=1500 R0=failed S1/spare:main connect=1500 B1 R1=ok F:stop D~ .degraded"},
        {"tried again when nobody else is left: no limit but the target's",
         {FALLBACK, .steps = "c", .retries = 1, .connect_ms = 1500, .connect_late_ms = 250},
         "go @2000 0:!CONNECT @2500 1:stop 1:end",
         "S0/cloud:main R0=failed S1/cloud:main! B1 R1=ok F:stop D .ok"},
        {"what another try cannot mend is tried once",
         {FALLBACK, .steps = "c", .retries = 2},
         "go 0:!UPSTREAM_REQUEST,422",
         "S0/cloud:main R0=failed E:upstream_request:422 .error"},
        {"a silent route is not tried again, not even at the end",
         {FALLBACK, .steps = "cd", .retries = 2},
         "go 0:!FIRST_TOKEN 1:!HOST_LOAD",
         "S0/cloud:main R0=failed S1/device:main R1=failed E:first_token:504 .error"},
        {"also where the plan names it twice",
         {FALLBACK, .steps = "ccd", .retries = 2},
         "go 0:!FIRST_TOKEN 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"silence is noticed here too",
         {FALLBACK, .steps = "cd"},
         "go 0:on @11999 @12001 1:stop 1:end",
         "S0/cloud:main X0 R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"the first fault is told, not the fallback's refusal",
         {FALLBACK, .steps = "cd"},
         "go 0:!UPSTREAM_SERVER,503 1:no,OVERLOAD",
         "S0/cloud:main R0=failed S1/device:main R1=refused E:upstream_server:502 .error"},
        {"a full queue is the next attempt",
         {FALLBACK, .steps = "dc"},
         "go 0:no,OVERLOAD 1:stop 1:end",
         "S0/device:main R0=refused S1/cloud:main B1 R1=ok F:stop D .ok"},
        {"a content refusal is not routed around",
         {FALLBACK, .steps = "cd", .retries = 2},
         "go 0:!CONTENT_POLICY,400",
         "S0/cloud:main R0=failed E:content_policy:400 .error"},
        {"a context overflow goes to more context only",
         {FALLBACK, .steps = "cds", .retries = 2},
         "go 0:!CONTEXT_LENGTH,400 1:stop 1:end",
         "S0/cloud:main R0=failed S1/spare:main B1 R1=ok F:stop D~ .degraded"},
        {"and nowhere where there is none",
         {FALLBACK, .steps = "cd", .retries = 2},
         "go 0:!CONTEXT_LENGTH,400",
         "S0/cloud:main R0=failed E:context_length:400 .error"},
        {"a model that says it is not for it: the next, and no fault of anybody",
         {FALLBACK, .steps = "dc"},
         "go 0:!NOT_FOR_ME 1:!UPSTREAM_AUTH,401",
         "S0/device:main R0=declined S1/cloud:main R1=failed E:upstream_auth:502 .error"},
        {"alone it declines honestly",
         {FALLBACK, .steps = "d"},
         "go 0:!NOT_FOR_ME",
         "S0/device:main R0=declined E:not_for_me:422 .error"},
        {"vectors never come from another model",
         {FALLBACK, .steps = "cs", .kind = TD_KIND_EMBEDDING, .whole = true},
         "go 0:!UPSTREAM_AUTH,401",
         "S0/cloud:main R0=failed E:upstream_auth:502 .error"},
        {"single asks one target only",
         {.mode = TD_MODE_SINGLE, .steps = "cd"},
         "go 0:!UPSTREAM_AUTH,401",
         "S0/cloud:main R0=failed E:upstream_auth:502 .error"},
        {"the deadline ends it",
         {FALLBACK, .steps = "cd", .deadline_ms = 300},
         "go 0:on @299 @300",
         "S0/cloud:main X0 R0=cancelled E:deadline:504 .error"},
        {"a target's own total is not the request's deadline",
         {FALLBACK, .steps = "cd", .deadline_ms = 300},
         "go 0:on 0:!DEADLINE 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 R1=ok F:stop D~ .degraded"},
        {"nobody is asked in the last moment before it",
         {FALLBACK, .steps = "cd", .deadline_ms = 300},
         "go 0:on @298 0:!DEADLINE",
         "S0/cloud:main R0=failed E:deadline:504 .error"},
        {"while draining nobody waits for a retry",
         {FALLBACK, .steps = "c", .retries = 2},
         "go 0:!UPSTREAM_RATE,429,9000 drain",
         "S0/cloud:main R0=failed E:upstream_rate:429 after=9000 .error"},
        {"a whole answer that was cut is asked again unseen",
         {FALLBACK, .steps = "cd", .whole = true},
         "go 0:'half' 0:!CUT 1:'all' 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 \"all\" R1=ok F:stop D~ .degraded"},
        {"offline: kept for later before anything is asked",
         {FALLBACK, .steps = "d", .outbox = true, .degraded = true},
         "go 0:'a' 0:stop 0:end",
         "Q:offline S0/device:main B0 \"a\" R0=ok F:stop D~ .degraded"},
        {"kept for later when a lesser one answered",
         {FALLBACK, .steps = "cd", .outbox = true},
         "go 0:!DNS 1:'a' 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 \"a\" R1=ok Q:degraded F:stop D~ .degraded"},
        {"kept for later when nobody answered",
         {FALLBACK, .steps = "c", .outbox = true},
         "go 0:!DNS",
         "S0/cloud:main R0=failed Q:failed E:dns:502 .error"},
    };
    RUN_ROWS(rows);
}

static void faults_after_the_first_byte(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"the next goes on from the text so far",
         {FALLBACK, .steps = "ce", .max_tokens = 60},
         "go 0:'Hello' 0:', ' 0:!CUT 1:hi 1:'world' 1:stop 1:end",
         "S0/cloud:main max=60 B0 \"Hello\" \", \" R0=failed S1/edge:continue <Hello, > max=58 O1 \"world\" R1=ok "
         "F:stop "
         "D~ .degraded"},
        {"a halved character is left to the next",
         {FALLBACK, .steps = "ce"},
         "go 0:'x\xe2\x82' 0:!CUT 1:'\xe2\x82\xac' 1:stop 1:end",
         "S0/cloud:main B0 \"x\" R0=failed S1/edge:continue <x> O1 \"\xe2\x82\xac\" R1=ok F:stop D~ .degraded"},
        {"cut twice",
         {FALLBACK, .steps = "ce", .retries = 1},
         "go 0:'a' 0:!IDLE 1:'b' 1:!CUT @500 2:'c' 2:stop 2:end",
         "S0/cloud:main B0 \"a\" R0=failed S1/edge:continue <a> O1 \"b\" R1=failed S2/edge:continue! <ab> O2 \"c\" "
         "R2=ok F:stop D~ .degraded"},
        {"of several choices none goes on, also where the first has said nothing yet",
         {FALLBACK, .steps = "ce", .n = 2},
         "go 0:#1'b' 0:!CUT",
         "S0/cloud:main B0 #1\"b\" R0=failed E:cut:502 .broken"},
        {"the same target goes on where there is no other",
         {FALLBACK, .steps = "c", .retries = 1},
         "go 0:'a' 0:!CUT @500 1:'b' 1:stop 1:end",
         "S0/cloud:main B0 \"a\" R0=failed S1/cloud:continue! <a> O1 \"b\" R1=ok F:stop D .ok"},
        {"a model host that runs out of memory in its answer comes back with room; one that never had it does not",
         {FALLBACK, .steps = "c", .retries = 1},
         "go 0:'a' 0:!HOST_MEMORY @500 1:!HOST_MEMORY",
         "S0/cloud:main B0 \"a\" R0=failed S1/cloud:continue! <a> R1=failed E:host_memory:503 .broken"},
        {"what comes after an unreadable event is not glued on: the next goes on from before the gap",
         {FALLBACK, .steps = "ce"},
         "go 0:'one ' 0:~'three' 1:'two ' 1:'three' 1:stop 1:end",
         "S0/cloud:main B0 \"one \" X0 R0=failed S1/edge:continue <one > O1 \"two \" \"three\" R1=ok F:stop D~ "
         ".degraded"},
        {"a gap before the first byte: the next from the start",
         {FALLBACK, .steps = "ce"},
         "go 0:hi 0:~'two' 1:'one ' 1:'two' 1:stop 1:end",
         "S0/cloud:main X0 R0=failed S1/edge:main B1 \"one \" \"two\" R1=ok F:stop D~ .degraded"},
        {"a gap in a whole answer is not told",
         {FALLBACK, .steps = "c", .retries = 1, .whole = true},
         "go 0:'one ' 0:~'three' @500 1:'one two three' 1:stop 1:end",
         "S0/cloud:main X0 R0=failed S1/cloud:main! B1 \"one two three\" R1=ok F:stop D .ok"},
        {"a gap that nobody can fill is an error, not a shorter answer",
         {FALLBACK, .steps = "c"},
         "go 0:'one ' 0:~'three'",
         "S0/cloud:main B0 \"one \" X0 R0=failed E:cut:502 .broken"},
        {"but not where it fell silent",
         {FALLBACK, .steps = "c", .retries = 1},
         "go 0:'a' 0:!IDLE",
         "S0/cloud:main B0 \"a\" R0=failed E:idle:504 .broken"},
        {"nothing less good than the policy wants",
         {FALLBACK, .steps = "cd", .min_quality = 0.5},
         "go 0:'a' 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=failed E:cut:502 .broken"},
        {"nothing whose context would not hold it",
         {FALLBACK, .steps = "cd", .context = 2040},
         "go 0:'a' 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=failed E:cut:502 .broken"},
        {"a tool call that has begun cannot be continued",
         {FALLBACK, .steps = "ce"},
         "go 0:*'{' 0:!CUT",
         "S0/cloud:main B0 tool0(f{) R0=failed E:cut:502 .broken"},
        {"nor can two choices",
         {FALLBACK, .steps = "ce", .n = 2},
         "go 0:'a' 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=failed E:cut:502 .broken"},
        {"one that takes no prefix is spliced where it says the same",
         {FALLBACK, .steps = "cs"},
         "go 0:'Hello' 0:!CUT 1:'He' 1:'llo wor' 1:'ld' 1:stop 1:end",
         "S0/cloud:main B0 \"Hello\" R0=failed S1/spare:splice O1 \" wor\" \"ld\" R1=ok F:stop D~ .degraded"},
        {"and not where it says something else: the fault is told",
         {FALLBACK, .steps = "cs"},
         "go 0:'Hello' 0:!CUT 1:'He' 1:'y'",
         "S0/cloud:main B0 \"Hello\" R0=failed S1/spare:splice X1 R1=mismatch E:cut:502 .broken"},
        {"nor where it says less",
         {FALLBACK, .steps = "cs"},
         "go 0:'Hello' 0:!CUT 1:'He' 1:stop 1:end",
         "S0/cloud:main B0 \"Hello\" R0=failed S1/spare:splice R1=mismatch E:cut:502 .broken"},
        {"it had said everything but the finish",
         {FALLBACK, .steps = "cs"},
         "go 0:'Hello' 0:!CUT 1:'Hello' 1:stop 1:end",
         "S0/cloud:main B0 \"Hello\" R0=failed S1/spare:splice O1 R1=ok F:stop D~ .degraded"},
        {"a prefix refused: asked afresh",
         {FALLBACK, .steps = "ce"},
         "go 0:'Hello' 0:!CUT 1:!UPSTREAM_REQUEST,400 2:'Hello!' 2:stop 2:end",
         "S0/cloud:main B0 \"Hello\" R0=failed S1/edge:continue <Hello> R1=failed S2/edge:splice O2 \"!\" R2=ok F:stop "
         "D~ .degraded"},
        {"a grammar goes on only by splicing",
         {FALLBACK, .steps = "ce", .format = TD_FORMAT_JSON_OBJECT},
         "go 0:'{\"a\"' 0:!CUT 1:'{\"a\":1}' 1:stop 1:end",
         "S0/cloud:main B0 \"{\"a\"\" R0=failed S1/edge:splice O1 \":1}\" R1=ok F:stop D~ .degraded"},
        {"a stop string across the cut ends the answer",
         {FALLBACK, .steps = "ce", .stop = "END"},
         "go 0:'x E' 0:!CUT 1:'N' 1:'D of it'",
         "S0/cloud:main B0 \"x E\" R0=failed S1/edge:continue <x E> O1 X1 R1=ok F:stop D~ .degraded"},
        {"what only looked like one is shown",
         {FALLBACK, .steps = "ce", .stop = "END"},
         "go 0:'x E' 0:!CUT 1:'N' 1:'A' 1:stop 1:end",
         "S0/cloud:main B0 \"x E\" R0=failed S1/edge:continue <x E> O1 \"NA\" R1=ok F:stop D~ .degraded"},
        {"also at the very end",
         {FALLBACK, .steps = "ce", .stop = "END"},
         "go 0:'x E' 0:!CUT 1:'N' 1:stop 1:end",
         "S0/cloud:main B0 \"x E\" R0=failed S1/edge:continue <x E> O1 \"N\" R1=ok F:stop D~ .degraded"},
        {"all tokens had come: only the finish was missing",
         {FALLBACK, .steps = "ce", .max_tokens = 2},
         "go 0:'a' 0:'b' 0:!CUT",
         "S0/cloud:main max=2 B0 \"a\" \"b\" R0=failed F:length D .ok"},
        {"error means error",
         {FALLBACK, .steps = "ce", .on_cut = TD_ON_CUT_ERROR},
         "go 0:'a' 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=failed E:cut:502 .broken"},
        {"restart only for who understands it",
         {FALLBACK, .steps = "ce", .on_cut = TD_ON_CUT_RESTART},
         "go 0:'a' 0:!CUT",
         "S0/cloud:main B0 \"a\" R0=failed E:cut:502 .broken"},
        {"and then as a revision",
         {FALLBACK, .steps = "ce", .on_cut = TD_ON_CUT_RESTART, .aware = true},
         "go 0:'a' 0:!CUT 1:'b' 1:stop 1:end",
         "S0/cloud:main B0 \"a\" R0=failed S1/edge:main V1:replace/1 \"b\" R1=ok F:stop D~ .degraded"},
        {"cut while it was only thinking: thoughts are not repeated",
         {FALLBACK, .steps = "ce"},
         "go 0:?'hm' 0:!CUT 1:?'hmm' 1:'a' 1:stop 1:end",
         "S0/cloud:main B0 ?\"hm\" R0=failed S1/edge:main O1 \"a\" R1=ok F:stop D~ .degraded"},
        {"every attempt is checked again: refused, and no bytes",
         {FALLBACK, .steps = "ce"},
         "go 0:'a' 0:!CUT 1:no,NO_TARGET",
         "S0/cloud:main B0 \"a\" R0=failed S1/edge:continue <a> R1=refused E:cut:502 .broken"},
        {"the deadline ends a stream with an error inside it",
         {FALLBACK, .steps = "ce", .deadline_ms = 1000},
         "go 0:on 0:'a' @1000",
         "S0/cloud:main B0 \"a\" X0 R0=cancelled E:deadline:504 .broken"},
    };
    RUN_ROWS(rows);
}

static void every_error_is_judged(void **state) {
    (void)state;
    for (unsigned code = TD_OK + 1; code < TD_ERR_COUNT; code++) {
        int status = td_x_http_status((enum td_err)code, 0), usual = td_openai_status((enum td_err)code);
        // Where no wait would help an answer may say so; a row that is missing in fault.c reads as 500.
        bool no_wait = usual == 503 && (status == 403 || status == 422);
        if (status != usual && !no_wait)
            fail_msg("%s has status %d, and %d by itself", td_err_code((enum td_err)code), status, usual);
    }
    assert_int_equal(td_x_http_status(TD_ERR_UPSTREAM_REQUEST, 422), 422);
    assert_int_equal(td_x_http_status(TD_ERR_UPSTREAM_AUTH, 401), 502); // our key is not the caller's fault
    assert_int_equal(td_x_http_status(TD_ERR_COUNT, 0), 500);
}

static void attempts_stop_at_their_limit(void **state) {
    (void)state;
    struct run r;
    struct setup s = {FALLBACK, .steps = "cecececs", .retries = 2};
    run_open(&r, &s);
    for (unsigned i = 0; i < TD_ATTEMPTS_MAX && r.ends == 0; i++) {
        char script[64] = "go ";
        char word[] = "0:!CONNECT";
        word[0] = (char)('0' + i);
        run_script(&r, strcat(script, word));
        r.now_ns += 60000ull * 1000000ull;
        run_script(&r, "drain");
    }
    assert_int_equal(r.starts, TD_ATTEMPTS_MAX);
    assert_int_equal(r.ends, 1);
    assert_int_equal(r.errors, 1);
    run_close(&r);
}

static void why_nobody_may_answer_is_said(void **state) {
    (void)state;
    static const struct {
        enum td_reason first, second;
        enum td_err code;
        int status;
    } rows[] = {{TD_REASON_CLASS, TD_REASON_RESIDENCY, TD_ERR_NO_TARGET, 403},
                {TD_REASON_CLASS, TD_REASON_HEALTH, TD_ERR_UNAVAILABLE, 503},
                {TD_REASON_CONTEXT, TD_REASON_CONTEXT, TD_ERR_CONTEXT_LENGTH, 400},
                {TD_REASON_CAPABILITY, TD_REASON_NOT_PINNED, TD_ERR_UNSUPPORTED, 400},
                {TD_REASON_COST, TD_REASON_COST, TD_ERR_BUDGET, 429}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run r;
        struct setup s = {FALLBACK, .steps = ""};
        run_open(&r, &s);
        r.plan.verdict_count = 2;
        r.plan.verdicts[0].reason = rows[i].first;
        r.plan.verdicts[1].reason = rows[i].second;
        struct td_x_effects fx;
        struct td_x_input go = {.type = TD_X_IN_START};
        td_exchange_step(r.x, &go, r.now_ns, &fx);
        assert_int_equal(fx.list[0].type, TD_X_DO_EMIT);
        const struct td_x_out *o = &fx.list[0].emit.list[0];
        assert_int_equal(o->error.code, rows[i].code);
        assert_int_equal(o->error.http_status, rows[i].status);
        assert_true(i != 0 || td_str_is(o->error.message,
                                        "no target may answer this request: device (class), cloud (residency)"));
        run_close(&r);
    }
}

// Without memory an answer may become an error, or the lesser one that there is, which says so; never a shorter one.
static void every_allocation_fails_once(void **state) {
    (void)state;
    static const struct {
        struct setup setup;
        const char *script, *text, *or_text, *lesser;
    } rows[] = {
        {{FALLBACK, .steps = "ce", .stop = "cd"},
         "go 0:hi 0:'ab' 0:'c' 0:!CUT 1:hi 1:'xd' 1:stop 1:end @900 2:'xd' 2:stop 2:end",
         "\"ab\" \"c\""},
        {{FALLBACK, .steps = "c", .whole = true, .logprobs = true, .n = 2},
         "go 0:hi 0:90'ab' 0:#1'c' 0:80'd' 0:*'{' 0:stop 0:#1stop 0:end",
         "\"ab\" p=0.90 #1\"c\" \"d\" p=0.80 tool0({)"},
        {{.mode = TD_MODE_PROGRESSIVE, .aware = true, .steps = "dc"},
         "go 0:'ab' 0:stop 0:end 1:hi 1:'x' 1:stop 1:end",
         "\"x\" R1=ok",
         "V1:confirm/0",
         "\"ab\" R0=ok F:stop D~"},
        {{.mode = TD_MODE_CASCADE, .threshold = 0.5, .hold_tokens = 2, .steps = "dc"},
         "go 0:90'a' 0:90'b' 0:'c' 0:stop 0:end 1:'abc' 1:stop 1:end",
         "c\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (uint64_t at = 1; at < 24; at++) {
            struct run r;
            run_open(&r, &rows[i].setup);
            assert_non_null(td_buf_reserve(&r.trace, 1u << 16));
            td_alloc_fail_at(at);
            run_script(&r, rows[i].script);
            td_alloc_fail_at(0);
            run_script(&r, "abort");
            assert_int_equal(r.ends, 1);
            assert_int_equal(r.dones + r.errors, 1);
            const char *trace = td_buf_z(&r.trace);
            bool other = (rows[i].or_text && strstr(trace, rows[i].or_text)) ||
                         (rows[i].lesser && strstr(trace, rows[i].lesser));
            if (r.errors == 0 && !other && !strstr(trace, rows[i].text))
                fail_msg("allocation %u failed and %s became %s", (unsigned)at, rows[i].script, trace);
            run_close(&r);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_answers),
        cmocka_unit_test(faults_before_the_first_byte),
        cmocka_unit_test(faults_after_the_first_byte),
        cmocka_unit_test(every_error_is_judged),
        cmocka_unit_test(attempts_stop_at_their_limit),
        cmocka_unit_test(why_nobody_may_answer_is_said),
        cmocka_unit_test(every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
