package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// released checks that CI made release n of the change.
func (c *change) released(n int) (string, error) {
	if c.run.State != fleet.RunReleased || c.run.Release == nil || c.run.Release.Number != n {
		why := ""
		if c.run.Failure != nil {
			why = ": " + c.run.Failure.Message
		}
		return "", fmt.Errorf("CI's run is %q, release %v%s", c.run.State, c.run.Release, why)
	}
	return fmt.Sprintf("commit %.12s", c.run.Release.Commit), nil
}

// failed checks that CI failed and named the host.
func (c *change) failed(host string) (string, error) {
	if c.run.State != fleet.RunFailed || c.run.Failure == nil {
		return "", fmt.Errorf("CI's run is %q", c.run.State)
	}
	if !strings.Contains(c.run.Failure.Message, host) {
		return "", fmt.Errorf("the failure does not name %s: %s", host, c.run.Failure.Message)
	}
	return fmt.Sprintf("stage %s: %s", c.run.Failure.Stage, firstLine(c.run.Failure.Message)), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// allCommitted checks what every followed host's agent says.
func (w *world) allCommitted(c *change) (string, error) {
	var errs []error
	for _, h := range followed {
		if d := c.hosts[h]; d.Result != fleet.Committed {
			errs = append(errs, fmt.Errorf("%s: %q %+v", h, d.Result, d.Failure))
		}
	}
	return strings.Join(followed, ", "), errors.Join(errs...)
}

// seeText reads /etc/gitops-test on every followed host.
func (w *world) seeText(want string) (string, error) {
	var errs []error
	for _, h := range followed {
		got, err := w.hosts[h].ReadFile("/etc/gitops-test")
		if err == nil && string(got) != want {
			err = fmt.Errorf("%s says %q, not %q", h, got, want)
		}
		errs = append(errs, err)
	}
	return strings.TrimSpace(want), errors.Join(errs...)
}

// seeSignature verifies the tag on the developer's machine with git alone.
func (w *world) seeSignature(ctx context.Context, n int) (string, error) {
	signers := w.hosts["developer"].Path("/root/allowed-signers")
	if err := os.WriteFile(signers, append([]byte("garrison "), w.key("release.pub")...), 0o644); err != nil {
		return "", err
	}
	if _, err := w.git(ctx, "fetch", "--quiet", "--tags", "origin"); err != nil {
		return "", err
	}
	_, err := w.git(ctx, "-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile=/root/allowed-signers", "verify-tag", fleet.TagName(n))
	return "git verify-tag " + fleet.TagName(n), err
}

// seeSystems reads what a boot would take, and what runs.
func (w *world) seeSystems(c *change) (string, error) {
	var errs []error
	for _, h := range followed {
		want := c.hosts[h].OutPath
		current, err := w.hosts[h].Readlink("/run/current-system")
		errs = append(errs, err)
		profile, err := w.run(context.Background(), h, "readlink", "-f", "/nix/var/nix/profiles/system")
		errs = append(errs, err)
		entry, err := w.hosts[h].ReadFile("/boot/garrison-entry")
		errs = append(errs, err)
		if current != want || profile != want || strings.TrimSpace(string(entry)) != want {
			errs = append(errs, fmt.Errorf("%s should run %s; runs %s, profile %s, boot entry %s", h, want, current, profile, entry))
		}
	}
	return "", errors.Join(errs...)
}

// seeSecrets reads the decrypted secrets on the hosts they are for.
func (w *world) seeSecrets() (string, error) {
	var errs []error
	n := 0
	for name, hosts := range secrets {
		for _, h := range hosts {
			if h == manual {
				continue
			}
			got, err := w.hosts[h].ReadFile("/run/agenix/" + name)
			if err == nil && string(got) != w.plain[name] {
				err = fmt.Errorf("%s on %s is not what was encrypted", name, h)
			}
			errs = append(errs, err)
			n++
		}
	}
	return fmt.Sprintf("%d secrets read", n), errors.Join(errs...)
}

// seeNoOtherSecrets has each host try to decrypt each released secret with its own key and the age program.
func (w *world) seeNoOtherSecrets(ctx context.Context) (string, error) {
	var errs []error
	tried := 0
	for name, hosts := range secrets {
		show := w.hosts["developer"].Command(ctx, "git", "-C", clone, "show", "origin/release:secrets/"+name+".age")
		blob, err := show.Output()
		if err != nil {
			return "", fmt.Errorf("git show: %w", err)
		}
		for _, h := range append([]string{manual}, followed...) {
			decrypt := w.hosts[h].Command(ctx, "age", "--decrypt", "--identity", "/etc/ssh/ssh_host_ed25519_key")
			decrypt.Stdin = bytes.NewReader(blob)
			out, err := decrypt.Output()
			may := slices.Contains(hosts, h)
			switch {
			case may && (err != nil || string(out) != w.plain[name]):
				errs = append(errs, fmt.Errorf("%s cannot decrypt %s: %v", h, name, err))
			case !may && err == nil:
				errs = append(errs, fmt.Errorf("%s can decrypt %s, which is not for it", h, name))
			}
			tried++
		}
	}
	return fmt.Sprintf("%d host and secret pairs tried with age", tried), errors.Join(errs...)
}

// closure is what a host's store knows of a system: path → entry of nix path-info.
func (w *world) closure(ctx context.Context, host, top string) (map[string]pathInfo, error) {
	out, err := w.run(ctx, host, "nix", "--extra-experimental-features", "nix-command", "path-info", "--recursive", "--json", top)
	if err != nil {
		return nil, err
	}
	byPath := map[string]pathInfo{}
	if strings.HasPrefix(out, "{") {
		return byPath, unmarshal([]byte(out), &byPath)
	}
	var list []pathInfo
	err = unmarshal([]byte(out), &list)
	for _, p := range list {
		byPath[p.Path] = p
	}
	return byPath, err
}

type pathInfo struct {
	Path       string   `json:"path"`
	Ultimate   bool     `json:"ultimate"` // built here
	Signatures []string `json:"signatures"`
}

// seeCache asks the cache for every path of every followed host's closure, and checks signatures by another implementation.
func (w *world) seeCache(ctx context.Context, c *change) (string, error) {
	return w.seeCacheOf(ctx, c, followed...)
}

// seeCacheOf does so for some hosts.
func (w *world) seeCacheOf(ctx context.Context, c *change, hosts ...string) (string, error) {
	key, err := signature.ParsePublicKey(w.cacheKey)
	if err != nil {
		return "", err
	}
	seen := map[string]bool{}
	for _, h := range hosts {
		paths, err := w.closure(ctx, h, c.hosts[h].OutPath)
		if err != nil {
			return "", err
		}
		if len(paths) < 2 {
			return "", fmt.Errorf("the closure of %s has %d paths", h, len(paths))
		}
		for path := range paths {
			if seen[path] {
				continue
			}
			seen[path] = true
			if err := w.seeCached(ctx, path, key); err != nil {
				return "", fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return fmt.Sprintf("%d paths", len(seen)), nil
}

func (w *world) seeCached(ctx context.Context, path string, key signature.PublicKey) error {
	hash, _, _ := strings.Cut(filepath.Base(path), "-")
	text, err := w.getBytes(ctx, w.cacheURL+"/"+hash+".narinfo")
	if err != nil {
		return err
	}
	info, err := narinfo.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if info.StorePath != path {
		return fmt.Errorf("its narinfo is of %s", info.StorePath)
	}
	if !signature.VerifyFirst(info.Fingerprint(), info.Signatures, []signature.PublicKey{key}) {
		return errors.New("not signed by the cache's key")
	}
	resp, err := w.request(ctx, w.cacheURL+"/"+info.URL)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if err == nil && uint64(n) != info.FileSize {
		err = fmt.Errorf("its NAR has %d bytes, %d were promised", n, info.FileSize)
	}
	return err
}

// seeFetched asks each host's store where the paths came from.
func (w *world) seeFetched(ctx context.Context, c *change) (string, error) {
	name, _, _ := strings.Cut(w.cacheKey, ":")
	n := 0
	for _, h := range followed {
		paths, err := w.closure(ctx, h, c.hosts[h].OutPath)
		if err != nil {
			return "", err
		}
		for path, p := range paths {
			signed := slices.ContainsFunc(p.Signatures, func(s string) bool { return strings.HasPrefix(s, name+":") })
			if p.Ultimate || !signed {
				return "", fmt.Errorf("%s on %s was not fetched from the cache (built here: %v, signatures: %v)", path, h, p.Ultimate, p.Signatures)
			}
			n++
		}
	}
	return fmt.Sprintf("%d paths in 3 stores", n), nil
}

// seeManual checks that the manual host's agent knows of release n, and did nothing.
func (w *world) seeManual(ctx context.Context, n int) (string, error) {
	var s fleet.Status
	err := until(ctx, patience, lookAgain, func() (err error) {
		s, err = w.status(ctx, manual)
		if err == nil && (s.Newest == nil || s.Newest.Number != n) {
			err = fmt.Errorf("its agent does not know of %s: %s", fleet.TagName(n), s.Summary())
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if s.Phase != fleet.PhaseManual || s.Systems.Current != "" || s.Last != nil {
		return "", fmt.Errorf("its agent says: phase %s, current system %q", s.Phase, s.Systems.Current)
	}
	if got, err := w.hosts[manual].ReadFile("/etc/gitops-test"); err != nil || string(got) != byHand {
		return "", fmt.Errorf("its /etc/gitops-test says %q: %v", got, err)
	}
	store, err := w.run(ctx, manual, "ls", "/nix/store")
	if err != nil {
		return "", err
	}
	if strings.Contains(store, "nixos-system") {
		return "", errors.New("a system came into its store")
	}
	return "its agent saw " + fleet.TagName(n) + " and left it alone", nil
}

// seeLog reads the log of the change's CI run.
func (w *world) seeLog(ctx context.Context, c *change, complaint string) (string, error) {
	log, err := w.getBytes(ctx, fmt.Sprintf("/api/v1/runs/%d/log", c.run.ID))
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(log), complaint) {
		return "", fmt.Errorf("%q is not in the log of run %d:\n%s", complaint, c.run.ID, log)
	}
	return complaint, nil
}

// snapshot is all that a failed change must leave alone, one line each: release refs of the
// repository, and what the hosts run.
func (w *world) snapshot(ctx context.Context) (string, error) {
	refs, err := w.run(ctx, "forge", "git", "-C", "/srv/git/fleet.git", "for-each-ref", "refs/heads/release*", "refs/tags")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintln(&b, refs)
	for _, h := range followed {
		current, err := w.hosts[h].Readlink("/run/current-system")
		if err != nil {
			return "", err
		}
		text, err := w.hosts[h].ReadFile("/etc/gitops-test")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %s %q\n", h, current, text)
	}
	return b.String(), nil
}

// contains says whether what is looked for stands in text, and shows the line.
func contains(text, want string) (string, error) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, want) {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("%q is not in:\n%.2000s", want, text)
}
