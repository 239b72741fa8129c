package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// hostile are releases that nobody should have made, and what was damaged or mixed up on the way.
var hostile = []scenario{
	{name: "force-pushed", title: "a release branch that goes back is refused", run: forcePushed},
	{name: "unsigned", title: "a release that nobody signed is refused", run: func(ctx context.Context, r *run) error {
		return r.forged(ctx, "tag -a -F /tmp/manifest", fleet.CodeUnsigned)
	}},
	{name: "wrong-key", title: "a release signed by a key that may not is refused", run: func(ctx context.Context, r *run) error {
		return r.forged(ctx, "-c gpg.format=ssh -c user.signingkey=/tmp/stranger tag -s -F /tmp/manifest", fleet.CodeUnknownKey)
	}},
	{name: "corrupt-nar", title: "an archive that is damaged in the cache gets into no store: the host builds its system itself", run: corruptNAR},
	{name: "corrupt-narinfo", title: "what the cache says of a path is cut short: nothing of it gets into a store, and the host builds its system itself", run: corruptNarInfo},
	{name: "cache-wrong-key", title: "what a stranger signed in the cache is not taken; put right, the release arrives", run: cacheWrongKey},
	{name: "secret-miskeyed", title: "a host whose secret is keyed for somebody else is rolled back", run: secretMiskeyed},
}

const bare = "/srv/git/fleet.git"

// onForge runs a script on the forge, where the repository is.
func (r *run) onForge(ctx context.Context, script string) (string, error) {
	return r.yard.run(ctx, "forge", "sh", "-euc", "cd "+bare+"; export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@example.org GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@example.org HOME=/root\n"+script)
}

// putBack has the release branch and tags be what they are now when the scenario has ended.
func (r *run) putBack(ctx context.Context) error {
	tip, err := r.onForge(ctx, "git rev-parse refs/heads/release")
	if err != nil {
		return err
	}
	tags, err := r.onForge(ctx, "git tag --list")
	if err != nil {
		return err
	}
	r.afterwards(func(ctx context.Context) error {
		now, err := r.onForge(ctx, "git update-ref refs/heads/release "+tip+"; git tag --list")
		for _, tag := range strings.Fields(now) {
			if err == nil && !slices.Contains(strings.Fields(tags), tag) {
				_, err = r.onForge(ctx, "git tag --delete "+tag)
			}
		}
		return errors.Join(err, r.wake(ctx))
	})
	return nil
}

func (r *run) wake(ctx context.Context) error {
	_, err := r.yard.run(ctx, "forge", "garrison", "hub", "wake", "--url", hubURL, "--token-file", "/etc/garrison/hook-token")
	return err
}

// refuses waits until the host says that it refuses the release branch with such a code, and checks that nothing happened to it.
func (r *run) refuses(ctx context.Context, since time.Time, before string, codes ...fleet.Code) {
	r.await(ctx, "the host refuses it, and says why", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		switch {
		case err != nil:
			return "", err
		case s.Refused == nil:
			return "", errors.New("it refuses nothing: " + s.Summary())
		case !slices.Contains(codes, s.Refused.Failure.Code):
			return "", fmt.Errorf("it refuses it as %s: %s", s.Refused.Failure.Code, s.Refused.Failure.Message)
		}
		return firstLine(s.Refused.Failure.Message), nil
	})
	r.await(ctx, "somebody is told", func() (string, error) {
		if text, err := r.yard.ears.heard(fleet.AlertRefused, "", since); err == nil { // once, for all hosts
			return text, nil
		}
		return r.yard.ears.heard(fleet.AlertRefused, drilled, since)
	})
	r.see("garrison explain says so, too, and what to do", func() (string, error) {
		out, err := r.yard.run(ctx, drilled, "garrison", "explain")
		if err == nil {
			_, err = contains(out, "→")
		}
		if err != nil {
			return "", err
		}
		return contains(out, "not an acceptable release")
	})
	r.see("and is what it was", func() (string, error) {
		after, err := r.standing(ctx, r.host(drilled))
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		return "", err
	})
}

// accepted waits until nothing is refused any more.
func (r *run) accepted(ctx context.Context) error {
	return until(ctx, patience, lookAgain, func() error {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && s.Refused != nil {
			err = errors.New(s.Summary())
		}
		return err
	})
}

func forcePushed(ctx context.Context, r *run) error {
	began := time.Now()
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	if err := r.putBack(ctx); err != nil {
		return err
	}
	if _, err := r.onForge(ctx, "git update-ref refs/heads/release refs/heads/release~1"); err != nil {
		return err
	}
	if err := r.wake(ctx); err != nil {
		return err
	}
	r.refuses(ctx, began, before, fleet.CodeForcePushed, fleet.CodeReplayed)
	r.afterwards(r.accepted)
	slices.Reverse(r.undo) // put back first, then wait
	return nil
}

// forged makes a commit on the release branch and a tag for it, by "git HOW TAG COMMIT", with the manifest of the last release under the next number.
func (r *run) forged(ctx context.Context, how string, codes ...fleet.Code) error {
	began := time.Now()
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	n, err := r.newest(ctx)
	if err != nil {
		return err
	}
	if err := r.putBack(ctx); err != nil {
		return err
	}
	script := fmt.Sprintf(`
test -e /tmp/stranger || ssh-keygen -q -t ed25519 -N '' -f /tmp/stranger
git for-each-ref --format='%%(contents)' refs/tags/release-%d | sed 's/"number": *%[1]d\b/"number": %[2]d/; s/release-%[1]d\b/release-%[2]d/; /-----BEGIN SSH SIGNATURE/,$d' > /tmp/manifest
commit=$(git commit-tree -p refs/heads/release -m 'forged %[4]s' 'refs/heads/release^{tree}') # not the one of another scenario in the same second
git %[3]s release-%[2]d $commit
git update-ref refs/heads/release $commit
`, n, n+1, how, codes[0])
	if _, err := r.onForge(ctx, script); err != nil {
		return err
	}
	if err := r.wake(ctx); err != nil {
		return err
	}
	r.refuses(ctx, began, before, codes...)
	r.afterwards(r.accepted)
	slices.Reverse(r.undo)
	return nil
}

func corruptNAR(ctx context.Context, r *run) error {
	restore, err := r.cut(ctx, drilled)
	if err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: damaged in the cache")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	// All archives of the last minute lose their middle, as a bad disk would have it; the cache that serves has read none of them yet.
	const files = cacheData
	damage := `find ` + files + ` -name '*.nar.zst' -mmin -1 | while read -r f; do cp -p "$f" "$f.whole"; size=$(wc -c < "$f"); printf damaged | dd of="$f" bs=1 seek=$((size / 2)) conv=notrunc status=none; echo "$f"; done`
	mend := `find ` + files + ` -name '*.whole' | while read -r f; do mv -f "$f" "${f%.whole}"; done`
	r.afterwards(func(ctx context.Context) error {
		_, err := r.yard.run(ctx, "forge", "sh", "-euc", mend)
		return err
	})
	out, err := r.yard.run(ctx, "forge", "sh", "-euc", damage)
	if err != nil {
		return err
	}
	if out == "" {
		return errors.New("no archive was found in the cache's folder")
	}
	if err := restore(ctx); err != nil {
		return err
	}
	r.await(ctx, "the host does not take it, but builds its system itself, and commits that", func() (string, error) { return r.builtThere(ctx, p) })
	r.see("its log says that the cache has not got it whole", func() (string, error) {
		log, err := r.agentLog()
		if err != nil {
			return "", err
		}
		line, err := contains(log, "building this host's system here")
		return fmt.Sprintf("%.200s", line), err
	})
	r.see("what came into its store is whole", func() (string, error) {
		return r.yard.run(ctx, drilled, "nix-store", "--verify", "--check-contents")
	})
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// bareKey is a public key without its comment.
func bareKey(line []byte) string {
	fields := strings.Fields(string(line))
	return strings.Join(fields[:min(2, len(fields))], " ")
}

func secretMiskeyed(ctx context.Context, r *run) error {
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	file := "hosts/" + drilled + "/host.pub"
	allow := func(host string) error {
		return r.yard.write("garrison.toml", []byte(r.yard.config+fmt.Sprintf("allowRemoval = [%q]\n", bareKey(r.yard.key(host+".pub")))))
	}
	if err := r.yard.write(file, r.yard.key("joker.pub")); err != nil {
		return err
	}
	r.afterwards(func(context.Context) error {
		r.yard.bad = true
		return errors.Join(r.yard.write(file, r.yard.key(drilled+".pub")), allow("joker")) // who may read no more what was keyed for them

	})
	refs, err := r.refs(ctx)
	if err != nil {
		return err
	}
	p, err := r.put(ctx, newMarker(), "Drill: the wrong public key")
	if err != nil {
		return err
	}
	r.await(ctx, "CI does not release it: the host would lose its secrets", func() (string, error) {
		v, err := r.ci(ctx, p.commit)
		if err == nil && v.state != ciFailed {
			err = fmt.Errorf("CI says %q", v.state)
		}
		return firstLine(v.why), err
	})
	r.see("release branch and tags are byte-identical", func() (string, error) {
		after, err := r.refs(ctx)
		if err == nil && after != refs {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", refs, after)
		}
		return "", err
	})
	if err := allow(drilled); err != nil {
		return err
	}
	if p, err = r.put(ctx, newMarker(), "Drill: the wrong public key, on somebody's word"); err != nil {
		return err
	}
	r.await(ctx, "told that it is meant, CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.await(ctx, "the host cannot decrypt, and rolls back", func() (string, error) {
		d, err := r.host(drilled).deployment(ctx, p.commit)
		switch {
		case err != nil || d == nil:
			return "", errors.Join(errNotYet, err)
		case d.Result != fleet.RolledBack:
			return "", final{fmt.Errorf("its deployment ended as %s", d.Result)}
		}
		return firstLine(d.Failure.Message), nil
	})
	r.see("its log names the secret", func() (string, error) {
		log, err := r.host(drilled).log(ctx)
		if err != nil {
			return "", err
		}
		return contains(log, "cannot decrypt the secret ward-key")
	})
	r.see("profile, boot entry and system are what they were, and so are the secrets", func() (string, error) {
		after, err := r.standing(ctx, r.host(drilled))
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		if err != nil {
			return "", err
		}
		return r.yard.seeSecrets()
	})
	return nil
}
