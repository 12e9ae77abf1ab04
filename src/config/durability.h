// SPDX-License-Identifier: Apache-2.0
// What an acknowledged ledger row is worth: a value of the configuration that the store keeps the promise of.
#ifndef TD_CONFIG_DURABILITY_H
#define TD_CONFIG_DURABILITY_H

// What "acknowledged" means for ledger rows (docs/decisions/0004-ledger-durability.md). The store keeps each promise;
// who must wait for what is the exchange's business: BEFORE_ANSWER gives td_ledger_append an ack, BEFORE_EGRESS gives
// one to td_receipt_append as well.
enum td_durability {
    TD_DURABILITY_BATCHED,       // at most about 20 ms of rows at risk on power loss, none on kill -9
    TD_DURABILITY_BEFORE_ANSWER, // the answer's end waits until its row is on the disk
    TD_DURABILITY_BEFORE_EGRESS, // and no byte leaves before its receipt is on the disk
};

#endif
