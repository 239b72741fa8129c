package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) events() *cobra.Command {
	var f from
	var types []string
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what happened in the fleet, by a hub: runs, releases, deployments, orders, alerts, drills",
		Long: `Events prints what a hub noted, the newest last. -f goes on with what happens from now on; none is missed when the connection or the hub is away
for a while. Types may be abbreviated: "alert" stands for garrison.alert.firing and garrison.alert.resolved. With -o json it prints a CloudEvent a line.`,
		Args: exactly(),
	}
	format := output(cmd)
	f.hubFlags(cmd)
	cmd.Flags().StringSliceVar(&types, "type", nil, "only those types, such as deployment,alert")
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many of the newest (1 to 100)")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(shortTypes(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if n < 1 || n > 100 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 100, not %d", n))
		}
		wanted, err := eventTypes(types)
		if err != nil {
			return usage(cmd, err)
		}
		if err := f.resolve(cmd, true); err != nil {
			return err
		}
		if f.hub == "" {
			return usage(cmd, errors.New("what happened in the fleet is known to a hub: give --hub"))
		}
		e := eventList{app: a, from: &f, types: wanted, json: *format == "json"}
		if err := e.newest(cmd.Context(), n); err != nil || !follow {
			return err
		}
		return e.follow(cmd.Context())
	}
	return cmd
}

const eventPrefix = "garrison."

func shortTypes() []string {
	var list []string
	for _, t := range fleet.EventTypes() {
		list = append(list, strings.TrimPrefix(t, eventPrefix))
	}
	return list
}

// eventTypes are the full names of types, each of which may be a part of one between dots.
func eventTypes(names []string) (types []string, err error) {
	for _, name := range names {
		found := false
		for _, t := range fleet.EventTypes() {
			if t == name || strings.Contains(t+".", "."+name+".") {
				types, found = append(types, t), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no type of events %q, but %s", name, strings.Join(shortTypes(), ", "))
		}
	}
	return types, nil
}

// eventList prints events, each once, in the order in which the hub noted them.
type eventList struct {
	*app
	from  *from
	types []string
	json  bool
	last  int64 // Seq of the last one that is known here
}

func (l *eventList) path(query url.Values) string {
	if len(l.types) > 0 {
		query.Set("types", strings.Join(l.types, ","))
	}
	return "/api/v1/events?" + query.Encode()
}

func (l *eventList) ask(ctx context.Context, query url.Values) (list []fleet.Event, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found, err := l.from.get(ctx, l.path(query), &list)
	if err == nil && !found {
		err = fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub %s keeps no events", l.from.hub).WithHint("is it older than this garrison?")
	}
	return list, err
}

func (l *eventList) newest(ctx context.Context, n int) error {
	list, err := l.ask(ctx, url.Values{"n": {fmt.Sprint(n)}})
	if err != nil {
		return err
	}
	slices.Reverse(list)
	return l.print(list)
}

const eventsTogether = 100

// follow prints what happens. The stream only says that there is something: what it is, is asked for by what is known, so that none is missed.
func (l *eventList) follow(ctx context.Context) error {
	catchUp := func() (bool, error) {
		for {
			list, err := l.ask(ctx, url.Values{"after": {fmt.Sprint(l.last)}, "n": {fmt.Sprint(eventsTogether)}})
			if err == nil {
				err = l.print(list)
			}
			if err != nil || len(list) < eventsTogether {
				return false, err
			}
		}
	}
	return l.from.listen(ctx, catchUp, func(e fleet.StreamEvent) (bool, error) {
		if e.Event == nil || len(l.types) > 0 && !slices.Contains(l.types, e.Event.Type) {
			return false, nil
		}
		return catchUp()
	})
}

func (l *eventList) print(list []fleet.Event) error {
	s := l.console()
	for _, e := range list {
		l.last = max(l.last, e.Seq)
		if l.json {
			if err := json.NewEncoder(l.Out).Encode(e); err != nil {
				return err
			}
			continue
		}
		text := fmt.Sprintf("%s  %-18s %s", e.Time.Local().Format(time.DateTime), strings.TrimPrefix(e.Type, eventPrefix), e.Words())
		if s.columns > 0 {
			text = cut(visible(text), s.columns)
		}
		s.line(inkOfEvent(e), "%s", text)
	}
	return nil
}

func inkOfEvent(e fleet.Event) ink {
	switch e.Type {
	case fleet.EventAlert:
		return red
	case fleet.EventResolved:
		return green
	case fleet.EventReleased:
		return strong
	}
	return plain
}
