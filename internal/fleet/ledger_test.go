package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestLedgerFits(t *testing.T) {
	l := fleet.Ledger{}
	empty, err := fleet.ParseLedger(nil)
	if err != nil || empty.Schema != fleet.LedgerSchema {
		t.Errorf("no bytes: %+v, %v", empty, err)
	}
	before := l
	l.Promoted("release-ring-a", fleet.Promotion{Release: 1, Reason: strings.Repeat("ä", 1000)})
	if before.Promotions != nil || len(l.Promotions["release-ring-a"][0].Reason) > 210 {
		t.Errorf("%+v, %+v", before, l)
	}
	for n := range fleet.MaxPromotions + 5 {
		l.Promoted("release-ring-a", fleet.Promotion{Release: n + 2})
	}
	if of := l.Promotions["release-ring-a"]; len(of) != fleet.MaxPromotions || of[len(of)-1].Release != fleet.MaxPromotions+6 {
		t.Errorf("%d promotions are kept", len(of))
	}
	// Many batches, each with all that is kept of it.
	all := make([]fleet.Promotion, fleet.MaxPromotions)
	for i := range all {
		all[i] = fleet.Promotion{Release: i + 1, At: time.Unix(1.8e9, 0).UTC(), By: "Ann <ann@example.org>", Reason: strings.Repeat("x", 200)}
	}
	for b := range 600 {
		l.Promotions[fmt.Sprint("release-ring-a.", b+2)] = all
	}
	text, err := l.Bytes()
	if err != nil || len(text) > fleet.MaxLedgerBytes {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	read, err := fleet.ParseLedger(text)
	if err != nil {
		t.Fatal(err)
	}
	if of := read.Promotions["release-ring-a.7"]; len(of) == 0 || of[len(of)-1].Release != fleet.MaxPromotions || len(read.Promotions) != 601 {
		t.Errorf("%d batches, of one: %+v", len(read.Promotions), of)
	}
	if len(l.Promotions["release-ring-a.7"]) != fleet.MaxPromotions {
		t.Error("what was written was cut")
	}
}
