package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// LedgerPath is the one file on the roll-out's branch (RolloutBranch).
const LedgerPath = "rollout.json"

// LedgerSchema is the schema of ledgers that this version writes and reads.
const LedgerSchema = 1

// MaxLedgerBytes bounds a ledger.
const MaxLedgerBytes = 4 << 20

// Ledger is what people ordered about the roll-out, and when which ring was given what: the part of a roll-out that hosts do not report. It stands
// in git, on a branch of its own; each commit there is one order or promotion, with its author and reason, in the same push as the rings' branches
// that it moves. No host believes it, but for when it may reboot.
type Ledger struct {
	Schema int `json:"schema"`
	// Promotions are the last of each ring's batches, by the branch (RingBranch), the newest last; at most MaxPromotions of each.
	Promotions map[string][]Promotion `json:"promotions,omitempty"`
	Paused     *RolloutOrder          `json:"paused,omitempty"`   // nothing is promoted
	Freeze     *RolloutOrder          `json:"freeze,omitempty"`   // nothing is promoted until Until, nor published to the first ring
	Unfrozen   *RolloutOrder          `json:"unfrozen,omitempty"` // who last ended a freeze before its time
	Resumed    *RolloutOrder          `json:"resumed,omitempty"`  // failures before At do not count
	Approved   []RolloutOrder         `json:"approved,omitempty"`
	Aborted    *RolloutOrder          `json:"aborted,omitempty"` // Release and all before it, down to To, go no further; To is to be released again
	// Reboots are the hosts that may reboot now.
	Reboots map[string]RebootPermit `json:"reboots,omitempty"`
}

// MaxPromotions is how many promotions of a batch a ledger keeps.
const MaxPromotions = 50

const maxPromotionReason = 200 // bytes

// Promotion says that a batch was given a release.
type Promotion struct {
	Release int       `json:"release"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`               // "hub", "ci", or a person as git knows them
	Reason  string    `json:"reason,omitempty"` // its beginning: all of it is the commit's
}

// Promoted notes that a batch, by its branch, was given a release. What l had before is left as it was.
func (l *Ledger) Promoted(branch string, p Promotion) {
	all := maps.Clone(l.Promotions)
	if all == nil {
		all = map[string][]Promotion{}
	}
	if len(p.Reason) > maxPromotionReason {
		p.Reason = strings.ToValidUTF8(p.Reason[:maxPromotionReason], "") + "…"
	}
	of := append(slices.Clone(all[branch]), p)
	all[branch] = of[max(0, len(of)-MaxPromotions):]
	l.Promotions = all
}

// RolloutOrder is what a person ordered.
type RolloutOrder struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// Release is the newest release that it is about: paused, resumed, approved, aborted.
	Release int        `json:"release,omitempty"`
	Ring    string     `json:"ring,omitempty"`   // approved: the ring that may be given Release
	Until   *time.Time `json:"until,omitempty"`  // freeze
	To      int        `json:"to,omitempty"`     // aborted: the release to go back to
	AtOnce  bool       `json:"atOnce,omitempty"` // aborted: all rings get it at once
	Made    int        `json:"made,omitempty"`   // aborted: the release that has To's content again; 0: it is still to be made
}

// RebootPermit says that a host may reboot, unless it has since: Boot is the boot that is to end (/proc/sys/kernel/random/boot_id).
type RebootPermit struct {
	Boot string    `json:"boot"`
	At   time.Time `json:"at"`
}

// The acts of a roll-out: what an order to a hub, or a command, does to the ledger.
const (
	RolloutPromote  = "promote"
	RolloutPause    = "pause"
	RolloutResume   = "resume"
	RolloutFreeze   = "freeze"
	RolloutUnfreeze = "unfreeze"
	RolloutAbort    = "abort"
)

// RolloutCommand is an order as a hub takes it (POST /api/v1/rollout/orders) and as it is made of a command's flags.
type RolloutCommand struct {
	Act string `json:"act"` // RolloutPromote and the others
	// Ring and Release say what promote gives to whom; Release 0: what the ring is to be given next, for pause and resume: the newest.
	Ring    string     `json:"ring,omitempty"`
	Release int        `json:"release,omitempty"`
	Until   *time.Time `json:"until,omitempty"`  // freeze: its end
	To      int        `json:"to,omitempty"`     // abort: the release to go back to; 0: the last one that all rings had
	AtOnce  bool       `json:"atOnce,omitempty"` // abort: all rings get it at once
	Reason  string     `json:"reason"`
	Force   bool       `json:"force,omitempty"` // promote: whatever the gates say
}

// RolloutActs are what a RolloutCommand can order.
func RolloutActs() []string {
	return []string{RolloutPromote, RolloutPause, RolloutResume, RolloutFreeze, RolloutUnfreeze, RolloutAbort}
}

// Bytes is the ledger as it stands in the file. Where that would be more than is read, it has fewer promotions of each batch, the newest.
func (l Ledger) Bytes() (text []byte, err error) {
	l.Schema = LedgerSchema
	for keep := MaxPromotions; ; keep /= 2 {
		if text, err = json.MarshalIndent(l, "", "  "); err != nil || len(text) < MaxLedgerBytes || keep < 2 {
			return append(text, '\n'), err
		}
		fewer := map[string][]Promotion{}
		for branch, of := range l.Promotions {
			fewer[branch] = of[max(0, len(of)-keep/2):]
		}
		l.Promotions = fewer
	}
}

// ParseLedger reads what Bytes wrote; no bytes at all are an empty ledger. Unknown fields are allowed, an unknown schema is not.
func ParseLedger(text []byte) (l Ledger, err error) {
	if len(text) == 0 {
		return Ledger{Schema: LedgerSchema}, nil
	}
	if len(text) > MaxLedgerBytes {
		return l, fmt.Errorf("the ledger has %d bytes, more than %d", len(text), MaxLedgerBytes)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&l); err != nil {
		return Ledger{}, fmt.Errorf("the ledger is not JSON of the form expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Ledger{}, errors.New("something follows the ledger")
	}
	if l.Schema != LedgerSchema {
		return Ledger{}, fmt.Errorf("the ledger has schema %d, this Garrison knows %d", l.Schema, LedgerSchema)
	}
	return l, nil
}
