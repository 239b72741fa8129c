package release

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// Mirrored is what became of a mirror.
type Mirrored struct {
	URL     string         `json:"url"`
	Moved   int            `json:"moved"` // refs; 0: it had everything
	Failure *fleet.Failure `json:"failure,omitempty"`
}

// MirrorsBehind are those that did not get everything; nil if all did.
func MirrorsBehind(all []Mirrored) []Mirrored {
	return slices.DeleteFunc(slices.Clone(all), func(m Mirrored) bool { return m.Failure == nil })
}

// checkMirror says what is wrong with a mirror's URL.
func checkMirror(mirror string) error {
	if strings.HasPrefix(mirror, "/") {
		return nil
	}
	if host, path, scp := strings.Cut(mirror, ":"); scp && !strings.HasPrefix(path, "//") && !strings.HasPrefix(path, ":") && host != "" && host[0] != '-' && !strings.Contains(host, "/") {
		return nil // git@host:path
	}
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Scheme != "file" {
		return errors.New("it is no URL of a repository")
	}
	if _, password := u.User.Password(); password || u.User != nil && u.Scheme != "ssh" {
		return errors.New("a token must not stand in the repository: CI has it, by GARRISON_MIRROR_CREDENTIALS")
	}
	if !slices.Contains([]string{"https", "http", "ssh", "git", "file"}, u.Scheme) {
		return errors.New("its scheme is none of https, http, ssh, git and file")
	}
	return nil
}

// Times for one mirror: one that does not answer must not hold up the others' word for long.
const (
	mirrorLook = time.Minute
	mirrorPush = 15 * time.Minute
)

// mirror gives all mirrors what the remote has of releases, also what earlier runs could not give them. What is wrong with one of them is in the
// result; the error is that of this repository, or of the context.
func (s *state) mirror(ctx context.Context) ([]Mirrored, error) {
	if len(s.config.Mirrors) == 0 {
		return nil, nil
	}
	want, known, err := s.releaseRefs(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Mirrored, len(s.config.Mirrors))
	var running sync.WaitGroup
	for i, m := range s.config.Mirrors {
		running.Go(func() {
			all[i].URL = git.Redact(m)
			address := m
			if s.Mirror != nil {
				address = s.Mirror(m)
			}
			moved, err := s.mirrorTo(ctx, address, want, known)
			all[i].Moved, all[i].Failure = moved, fleet.FailureOf(fleet.Publish, err)
			if err != nil && ctx.Err() == nil {
				s.Log.Warn("a mirror did not get the release; the next run makes up for it", "mirror", git.Redact(m), "err", err)
			}
		})
	}
	running.Wait()
	return all, ctx.Err()
}

// Mirror gives all mirrors what the remote has of releases and of the roll-out: what whoever moved a ring does after it.
func Mirror(ctx context.Context, o Options) ([]Mirrored, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &state{Options: o.withLog()}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return nil, err
	}
	if err := s.findSource(ctx); err != nil {
		return nil, err
	}
	return s.mirror(ctx)
}

// releaseRefs are the refs that a mirror should have, by their full names, and the commits that tags of releases point at: what is nobody
// else's to keep.
func (s *state) releaseRefs(ctx context.Context) (want map[string]string, released map[string]bool, err error) {
	tags, err := s.Repo.Refs(ctx, tagsRef)
	if err != nil {
		return nil, nil, err
	}
	branches, err := s.Repo.Refs(ctx, headsRef)
	if err != nil {
		return nil, nil, err
	}
	want, released = map[string]string{}, map[string]bool{}
	for name, t := range tags {
		want["refs/tags/"+name] = t.ID
		released[t.Commit] = true
	}
	for name, b := range branches {
		if release := s.config.Branches.Release; name == release || name == fleet.RolloutBranch(release) || (fleet.IsRingBranch(release, name) || testedHost(name) != "") && released[b.Commit] {
			want["refs/heads/"+name] = b.Commit
		}
	}
	return want, released, nil
}

// testedHost is the host whose test releases are on a branch; "" for other branches.
func testedHost(branch string) string {
	host := strings.TrimSuffix(strings.TrimPrefix(branch, fleet.TagPrefix), testSuffix)
	if fleet.TestBranch(host) != branch || !fleet.ValidHostName(host) {
		return ""
	}
	return host
}

// mirrorTo gives one mirror what it lacks. Nothing is forced: what it has besides stays, but test releases of ours, which may start anew.
func (s *state) mirrorTo(ctx context.Context, address string, want map[string]string, released map[string]bool) (moved int, err error) {
	branch := "refs/heads/" + s.config.Branches.Release
	look, cancel := context.WithTimeoutCause(ctx, mirrorLook, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "%s does not answer", git.Redact(address)))
	defer cancel()
	has, err := s.Repo.RemoteRefs(look, address, branch, branch+"-ring-*", "refs/heads/"+fleet.RolloutBranch(s.config.Branches.Release), "refs/heads/"+fleet.TagPrefix+"*"+testSuffix, "refs/tags/"+fleet.TagPrefix+"*")
	if err != nil {
		return 0, err
	}
	push, stop := context.WithTimeoutCause(ctx, mirrorPush, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "%s takes too long", git.Redact(address)))
	defer stop()
	var moves []git.Move
	for ref, id := range want {
		if has[ref] == id {
			continue
		}
		may, err := s.mayMirror(ctx, ref, has[ref], id, released)
		if err != nil {
			return 0, err
		}
		switch may {
		case mirrorAhead:
		case mirrorMoves:
			moves = append(moves, git.Move{Ref: ref, From: has[ref], To: id})
		default:
			return 0, cannotMirror(address, ref)
		}
	}
	for ref, at := range has {
		if name, isBranch := strings.CutPrefix(ref, "refs/heads/"); isBranch && want[ref] == "" && testedHost(name) != "" && released[at] {
			moves = append(moves, git.Move{Ref: ref, From: at}) // it is gone at the remote
		}
	}
	// Tags first, and the newest release's branch in the last of the pushes, with what leads to it.
	slices.SortFunc(moves, func(a, b git.Move) int {
		return cmp.Or(-cmp.Compare(a.Ref[:len("refs/t")], b.Ref[:len("refs/t")]), cmp.Compare(a.Ref, b.Ref))
	})
	const mostAtOnce = 500 // the kernel bounds what a program is given
	for some := range slices.Chunk(moves, mostAtOnce) {
		if err := s.Repo.Push(push, address, some...); err != nil {
			return moved, err
		}
		moved += len(some)
	}
	return moved, nil
}

// What becomes of a mirror's ref.
type mirrorWay int

const (
	mirrorOther mirrorWay = iota // it is somebody else's
	mirrorMoves
	mirrorAhead // it stays: whoever promoted brought it there meanwhile
)

// mayMirror says whether a mirror's ref may go from what it has ("": nothing) to what it should have.
func (s *state) mayMirror(ctx context.Context, ref, at, id string, released map[string]bool) (mirrorWay, error) {
	name, isBranch := strings.CutPrefix(ref, "refs/heads/")
	release := s.config.Branches.Release
	ofRollout := isBranch && (name == fleet.RolloutBranch(release) || fleet.IsRingBranch(release, name))
	switch {
	case at == "":
		return mirrorMoves, nil
	case !isBranch:
		return mirrorOther, nil
	case name != release && !ofRollout: // of a test release, which may start anew
		if released[at] {
			return mirrorMoves, nil
		}
		return mirrorOther, nil
	}
	if forward, err := s.forward(ctx, at, id); err != nil || forward {
		return mirrorMoves, err
	}
	if ofRollout {
		if _, known, err := s.Repo.Resolve(ctx, at+"^{commit}"); err != nil || known {
			ahead, err := s.forward(ctx, id, at)
			if err != nil || ahead {
				return mirrorAhead, err
			}
		}
	}
	if name == fleet.RolloutBranch(release) { // no host believes it, and somebody may have put it right
		return mirrorMoves, nil
	}
	return mirrorOther, nil
}

// forward says whether a mirror's branch may go from what it has to another commit. That it has a newer release, which another run brought it, is found out
// by the fetch of the next one.
func (s *state) forward(ctx context.Context, from, to string) (bool, error) {
	if _, known, err := s.Repo.Resolve(ctx, from+"^{commit}"); err != nil || !known {
		return false, err
	}
	return s.Repo.IsAncestor(ctx, from, to)
}

func cannotMirror(address, ref string) error {
	return fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "%s has another %s, which is not put right by force", git.Redact(address), ref).
		WithHint("find out who wrote it; when it is removed there, the next run makes up for it")
}
