package secret

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Damage is a kept file whose released bytes do not fit what was recorded of it.
type Damage struct {
	Path string
	Err  error
}

// CheckKept checks the released bytes of every file that the plan keeps: each must be encrypted for its recipients and
// nobody else. What is damaged goes through Distrust to those that are re-keyed, and is returned, sorted by path. read
// is used by the calling goroutine alone; an error of it that is CodeNotFound is damage too, others end the check.
func (p *Plan) CheckKept(ctx context.Context, read func(blob string) ([]byte, error)) ([]Damage, error) {
	type job struct {
		kept Kept
		file []byte
	}
	var mu sync.Mutex
	var damaged []Damage
	note := func(path string, err error) {
		mu.Lock()
		defer mu.Unlock()
		damaged = append(damaged, Damage{path, err})
	}
	jobs := make(chan job)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for j := range jobs {
				if err := CheckStanzas(j.file, j.kept.Record.Recipients); err != nil {
					note(j.kept.Path, err)
				}
			}
		})
	}
	err := func() error {
		for _, k := range p.Keep {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			file, err := read(k.Record.Released)
			switch {
			case err == nil:
				jobs <- job{k, file}
			case fleet.CodeOf(err) == fleet.CodeNotFound:
				note(k.Path, err)
			default:
				return fleet.Errorf(fleet.ClassOf(err), fleet.CodeOf(err), "cannot read the released %s from git", k.Path).WithCause(err)
			}
		}
		return nil
	}()
	close(jobs)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(damaged, func(a, b Damage) int { return strings.Compare(a.Path, b.Path) })
	for _, d := range damaged {
		p.Distrust(d.Path)
	}
	return damaged, nil
}
