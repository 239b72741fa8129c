package fleet

import (
	"reflect"
	"testing"
	"time"
)

func FuzzParseLedger(f *testing.F) {
	at := time.Date(2026, 11, 28, 18, 0, 0, 0, time.UTC)
	good, err := Ledger{Promotions: map[string][]Promotion{"release-ring-canary": {{Release: 412, At: at, By: "ci"}}}, Freeze: &RolloutOrder{By: "x", At: at, Until: &at},
		Reboots: map[string]RebootPermit{"ratched": {Boot: "b", At: at}}}.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{good, nil, []byte("{}"), []byte(`{"schema":1}{}`), []byte(`{"schema":2,"reboots":{"ratched":{"boot":"b"}}}`), []byte(`{"schema":1,"reboots":[]}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseLedger(text)
		if err != nil {
			if len(l.Reboots) > 0 {
				t.Errorf("a ledger that cannot be read permits %v", l.Reboots)
			}
			return
		}
		again, err := l.Bytes()
		if err != nil {
			return // a time that cannot be written, say
		}
		if l2, err := ParseLedger(again); err != nil || len(l.Reboots) != len(l2.Reboots) || len(l.Reboots) > 0 && !reflect.DeepEqual(l.Reboots, l2.Reboots) {
			t.Errorf("%+v, %v", l2, err)
		}
	})
}
