package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/nar"
)

// maxClosure bounds the answer about a closure, in bytes: more than 50,000 paths.
const maxClosure = 64 << 20

// Closure walks from tops through what the cache says they refer to, and returns all that it or one of its upstreams has,
// sorted by path, and the paths on the way that neither has. A closure that a host can fetch from them misses none.
func (c *Client) Closure(ctx context.Context, tops []string) (have []nar.PathInfo, missing []string, err error) {
	query, err := json.Marshal(map[string]any{"storePaths": tops})
	if err != nil {
		return nil, nil, err
	}
	var answer struct {
		Paths []struct {
			StorePath, NarHash string
			NarSize            int64
			References         []string
		}
		Missing []string
	}
	r := request{
		what: "ask for a closure", method: http.MethodPost, url: c.base + "/api/v1/caches/" + c.name + "/closure",
		contentType: "application/json", body: fixedBody(query), maxAnswer: maxClosure,
	}
	if p := c.speaks(); p == plain || p == attic {
		return c.walkClosure(ctx, tops)
	}
	err = c.getJSON(ctx, r, &answer)
	if c.speaks() == unknown && foreign(err) { // neither Attic nor a plain cache walks for us
		return c.walkClosure(ctx, tops)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, p := range answer.Paths {
		info := nar.PathInfo{StorePath: p.StorePath, NarSize: p.NarSize, References: p.References}
		if info.NarHash, err = nar.ParseHash(p.NarHash); err == nil {
			err = info.Validate()
		}
		if err != nil {
			return nil, nil, c.nonsense(r.what, err)
		}
		have = append(have, info)
	}
	for _, top := range tops {
		if !slices.Contains(answer.Missing, top) && !slices.ContainsFunc(have, func(p nar.PathInfo) bool { return p.StorePath == top }) {
			return nil, nil, c.nonsense(r.what, fmt.Errorf("it says nothing of %s", top))
		}
	}
	sortClosure(have, answer.Missing)
	return have, answer.Missing, nil
}

// walkClosure is Closure by reading what Nix would read.
func (c *Client) walkClosure(ctx context.Context, tops []string) (have []nar.PathInfo, missing []string, err error) {
	infos, missing, err := c.walk(ctx, tops)
	if err != nil {
		return nil, nil, err
	}
	for _, info := range infos {
		have = append(have, info.PathInfo)
	}
	sortClosure(have, missing)
	return have, missing, nil
}

func sortClosure(have []nar.PathInfo, missing []string) {
	slices.SortFunc(have, func(a, b nar.PathInfo) int { return strings.Compare(a.StorePath, b.StorePath) })
	slices.Sort(missing)
}
