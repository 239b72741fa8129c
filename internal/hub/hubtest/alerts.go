package hubtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func alert(key string, second int) fleet.Alert {
	return fleet.Alert{Schema: 1, Key: key, Kind: fleet.AlertDrift, Severity: fleet.Warning, What: "ü", Commands: []string{}, Since: at(second), OpenedAt: at(second)}
}

// about is the event of an alert.
func about(a fleet.Alert) (*fleet.Event, error) {
	kind := fleet.EventAlert
	if a.ResolvedAt != nil {
		kind = fleet.EventResolved
	}
	e, err := fleet.NewEvent(kind, "/alerts", fmt.Sprint(a.ID, " ", a.ResolvedAt != nil), a.Key, at(0), a)
	return &e, err
}

// alerts: open once by key, with an event that has the ID; opened again once it was resolved.
func alerts(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	for name, list := range map[string]func() ([]fleet.Alert, error){
		"open": func() ([]fleet.Alert, error) { return s.OpenAlerts(ctx) }, "all": func() ([]fleet.Alert, error) { return s.Alerts(ctx, 10) },
	} {
		if none, err := list(); err != nil || none == nil || len(none) != 0 {
			t.Errorf("%s: %v, %v", name, none, err)
		}
	}
	z, told, err := s.PutAlert(ctx, alert("z", 1), about)
	if err != nil || z.ID < 1 || told == nil || told.Seq < 1 {
		t.Fatal(z, told, err)
	}
	var said fleet.Alert
	if err := json.Unmarshal(told.Data, &said); err != nil || said.ID != z.ID {
		t.Errorf("the event says %+v, %v", said, err)
	}
	if same, told, err := s.PutAlert(ctx, alert("z", 5), about); err != nil || !reflect.DeepEqual(same, z) || told != nil {
		t.Errorf("%+v, %+v, %v", same, told, err)
	}
	a, _, err := s.PutAlert(ctx, alert("a", 2), about)
	must(t, err)
	end := at(9)
	over := z
	over.ResolvedAt = &end
	for _, first := range []bool{true, false} { // what is told again is no event
		if kept, told, err := s.PutAlert(ctx, over, about); err != nil || !reflect.DeepEqual(kept, over) || (told != nil) != first {
			t.Errorf("%+v, %+v, %v", kept, told, err)
		}
	}
	fresh, told, err := s.PutAlert(ctx, alert("z", 20), about)
	if err != nil || fresh.ID <= a.ID || told == nil {
		t.Errorf("opened again: %+v, %v, %v", fresh, told, err)
	}
	for s := range both(s, again) {
		if open, err := s.OpenAlerts(ctx); err != nil || !reflect.DeepEqual(open, []fleet.Alert{a, fresh}) {
			t.Errorf("open: %+v, %v", open, err)
		}
		if all, err := s.Alerts(ctx, 10); err != nil || !reflect.DeepEqual(all, []fleet.Alert{fresh, a, over}) {
			t.Errorf("all: %+v, %v", all, err)
		}
		if newest, err := s.Alerts(ctx, 1); err != nil || !reflect.DeepEqual(newest, []fleet.Alert{fresh}) {
			t.Errorf("the newest: %+v, %v", newest, err)
		}
		kept, err := s.Events(ctx, []string{fleet.EventAlert, fleet.EventResolved}, 0, 10)
		must(t, err)
		var kinds []string
		for _, e := range kept {
			kinds = append(kinds, e.Type+" "+e.Subject)
		}
		if want := []string{fleet.EventAlert + " z", fleet.EventAlert + " a", fleet.EventResolved + " z", fleet.EventAlert + " z"}; !reflect.DeepEqual(kinds, want) {
			t.Errorf("events: %q", kinds)
		}
	}
}

// alertWithoutEvent: both are kept, or none; and what is not there cannot be changed.
func alertWithoutEvent(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	if _, _, err := s.PutAlert(ctx, fleet.Alert{ID: 1000, Key: "k"}, about); err == nil {
		t.Error("an alert was kept under an ID that was never given")
	}
	wrong := errors.New("wrong")
	if _, _, err := s.PutAlert(ctx, alert("k", 1), func(fleet.Alert) (*fleet.Event, error) { return nil, wrong }); !errors.Is(err, wrong) {
		t.Error(err)
	}
	if a, told, err := s.PutAlert(ctx, alert("quiet", 1), func(fleet.Alert) (*fleet.Event, error) { return nil, nil }); err != nil || told != nil || a.ID == 0 {
		t.Error(a, told, err)
	}
	open, err := s.OpenAlerts(ctx)
	kept, err2 := s.Events(ctx, nil, 0, 10)
	if err != nil || err2 != nil || len(open) != 1 || len(kept) != 0 {
		t.Errorf("%+v, %+v, %v, %v", open, kept, err, err2)
	}
}

// alertsAtOnce: of many who open an alert, one does, beside whoever fails.
func alertsAtOnce(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	const keys, callers = 5, 8
	var all sync.WaitGroup
	var told atomic.Int64
	wrong := errors.New("wrong")
	for key := range keys {
		for c := range callers {
			all.Go(func() {
				_, e, err := s.PutAlert(ctx, alert(fmt.Sprint(key), c), about)
				if err != nil {
					t.Error(err)
				}
				if e != nil {
					told.Add(1)
				}
			})
			all.Go(func() {
				if _, _, err := s.PutAlert(ctx, alert(fmt.Sprint("wrong ", key, c), c), func(fleet.Alert) (*fleet.Event, error) { return nil, wrong }); !errors.Is(err, wrong) {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	open, err := s.OpenAlerts(ctx)
	kept, err2 := s.Events(ctx, nil, 0, 100)
	if err != nil || err2 != nil || len(open) != keys || len(kept) != keys || told.Load() != keys {
		t.Errorf("%d are open, %d events are kept, %d were told of, %v, %v", len(open), len(kept), told.Load(), err, err2)
	}
}

func delivery(sender, id string, due int) fleet.Delivery {
	return fleet.Delivery{Sender: sender, Event: event(id, fleet.EventAct, 1), At: at(0), NextAt: at(due)}
}

func named(list []fleet.Delivery) (all []string) {
	for _, d := range list {
		all = append(all, d.Sender+" "+d.Event.ID)
	}
	return all
}

// deliveries: in the order in which they are due; queued with the cursor, or not at all.
func deliveries(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	if seq, found, err := s.Cursor(ctx); seq != 0 || found || err != nil {
		t.Error(seq, found, err)
	}
	if none, err := s.Deliveries(ctx, 10); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	must(t, s.Queue(ctx, 7, []fleet.Delivery{delivery("b", "late", 90), delivery("a", "1", 10), delivery("b", "soon", 5), delivery("a", "2", 10), delivery("a", "3", 10)}))
	must(t, s.Queue(ctx, 9, nil))
	if err := s.PutDelivery(ctx, fleet.Delivery{ID: 1000}); err == nil {
		t.Error("a delivery was kept under an ID that was never given")
	}
	list, err := s.Deliveries(ctx, 10)
	must(t, err)
	if want := []string{"b soon", "a 1", "a 2", "a 3", "b late"}; !reflect.DeepEqual(named(list), want) {
		t.Fatalf("%q", named(list))
	}
	seen := map[int64]bool{}
	for _, d := range list {
		if d.ID < 1 || seen[d.ID] {
			t.Errorf("ID %d", d.ID)
		}
		seen[d.ID] = true
	}
	tried := list[1]
	tried.Attempts, tried.NextAt, tried.Error = 1, at(50), "it does not answer"
	must(t, s.PutDelivery(ctx, tried))
	end := at(6)
	done := list[0]
	done.DoneAt = &end
	must(t, s.PutDelivery(ctx, done))
	for s := range both(s, again) {
		if seq, found, err := s.Cursor(ctx); seq != 9 || !found || err != nil {
			t.Error(seq, found, err)
		}
		got, err := s.Deliveries(ctx, 10)
		if want := []fleet.Delivery{list[2], list[3], tried, list[4]}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
		if few, err := s.Deliveries(ctx, 1); err != nil || !reflect.DeepEqual(named(few), []string{"a 2", "b late"}) {
			t.Errorf("%q, %v", named(few), err)
		}
		if last, err := s.LastDeliveries(ctx, 10); err != nil || !reflect.DeepEqual(last, []fleet.Delivery{done}) {
			t.Errorf("%+v, %v", last, err)
		}
	}
}

// lastDeliveries: the newest of each sender; some may still be due while others are done at once.
func lastDeliveries(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	var queued []fleet.Delivery
	for i := range 20 {
		queued = append(queued, delivery("a", fmt.Sprint(i), i), delivery("b", fmt.Sprint(i), i))
	}
	must(t, s.Queue(ctx, 1, queued))
	list, err := s.Deliveries(ctx, 10)
	must(t, err)
	var all sync.WaitGroup
	for _, d := range list {
		all.Go(func() {
			end := d.NextAt.Add(time.Hour)
			d.DoneAt, d.GivenUp = &end, d.Sender == "b"
			if err := s.PutDelivery(ctx, d); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	last, err := s.LastDeliveries(ctx, 2)
	must(t, err)
	if len(last) != 4 || last[0].Event.ID != "9" || last[1].Event.ID != "9" || last[2].Event.ID != "8" || last[3].Event.ID != "8" {
		t.Errorf("%q", named(last))
	}
	if left, err := s.Deliveries(ctx, 100); err != nil || len(left) != 20 || left[0].Event.ID != "10" {
		t.Errorf("%q, %v", named(left), err)
	}
}
