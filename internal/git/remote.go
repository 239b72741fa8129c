package git

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// networkTime bounds each talk with a remote, a first clone included.
const networkTime = 15 * time.Minute

// networkConfig bounds what waits for a remote: a transfer below 1 KB/s for 30 s is given up.
var networkConfig = []string{"-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"}

// Fetch brings refspecs from a remote (its name or URL), dropping refs that are gone there. A clone that
// has only the newest commits, as CI systems make them, gets the rest: what descends from what cannot be told otherwise.
// Errors: CodeRemote, transient; CodeUnauthorized when the remote wants other credentials.
func (r *Repo) Fetch(ctx context.Context, remote string, refspecs ...string) error {
	_, err := r.network(ctx, remote, r.fetchArgs(), refspecs)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return remoteError("fetch from", remote, err)
}

func (r *Repo) fetchArgs() []string {
	args := []string{"fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules"}
	if _, err := os.Stat(filepath.Join(r.Dir, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	return args
}

// Move is a ref to push: from what it must be on the remote now ("" = not there) to an object ("": it is deleted). One that
// stays where it is must be there all the same, or nothing moves.
type Move struct{ Ref, From, To string }

// Push moves all refs or none. It fails with CodeRace when a ref on the remote is
// not what Move.From says, with CodeRemote or CodeUnauthorized otherwise. An answer that was lost is asked for again.
func (r *Repo) Push(ctx context.Context, remote string, moves ...Move) error {
	return r.PushTo(ctx, Remote{URL: remote}, moves...)
}

// PushTo is Push to a remote, by its URL or name, that has ways in of its own. Errors besides those of Push: CodeKey when a file of it cannot be used.
func (r *Repo) PushTo(ctx context.Context, m Remote, moves ...Move) error {
	args := []string{"push", "--quiet", "--atomic", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no"}
	var specs []string
	for _, m := range moves {
		args = append(args, fmt.Sprintf("--force-with-lease=%s:%s", m.Ref, m.From))
		specs = append(specs, m.To+":"+m.Ref)
	}
	_, err := r.networkTo(ctx, m, args, specs)
	if err == nil || ctx.Err() != nil {
		return err
	}
	var names []string
	for _, m := range moves {
		names = append(names, m.Ref)
	}
	there, seenErr := r.remoteRefs(ctx, m, names)
	if seenErr != nil {
		return talkError(ctx, "push to", m, err)
	}
	arrived := true
	for _, m := range moves {
		if there[m.Ref] != m.From && there[m.Ref] != m.To {
			return fleet.Errorf(fleet.Transient, fleet.CodeRace, "%s was moved by somebody else while this ran", m.Ref).
				WithHint("run it again: it starts from what is there now").WithCause(redacted(err))
		}
		arrived = arrived && there[m.Ref] == m.To
	}
	if arrived { // only the remote's answer was lost
		return nil
	}
	if strings.Contains(proc.Said(err), "cannot lock ref") { // somebody is just moving it
		return fleet.Errorf(fleet.Transient, fleet.CodeRace, "somebody else was moving the same refs of %s", Redact(m.URL)).
			WithHint("run it again: it starts from what is there now").WithCause(redacted(err))
	}
	return talkError(ctx, "push to", m, err)
}

// remoteRefs asks what refs are on the remote now.
func (r *Repo) remoteRefs(ctx context.Context, m Remote, names []string) (map[string]string, error) {
	out, err := r.networkTo(ctx, m, []string{"ls-remote"}, names)
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if id, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs[ref] = id
		}
	}
	return refs, nil
}

// network runs a command that talks to remote (its name or URL), within networkTime.
func (r *Repo) network(ctx context.Context, remote string, command, rest []string) (string, error) {
	return r.networkTo(ctx, Remote{URL: remote}, command, rest)
}

func (r *Repo) networkTo(ctx context.Context, m Remote, command, rest []string) (_ string, err error) {
	if m.URL, err = r.address(ctx, m.URL, command[0] == "push"); err != nil {
		return "", err
	}
	return r.talk(ctx, m, append([]string{"--git-dir", r.Dir}, networkConfig...), command, rest)
}

// talk runs a command that talks to m, within networkTime. Without a repository (r is nil) it runs outside of any.
func (r *Repo) talk(ctx context.Context, m Remote, before, command, rest []string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, networkTime,
		fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "%s did not come to an end in %s", Redact(m.URL), networkTime))
	defer cancel()
	address, env, err := m.access()
	if err != nil {
		return "", err
	}
	var ssh []string
	if overSSH(address) {
		if ssh, err = r.sshCommand(ctx, m); err != nil {
			return "", err
		}
	}
	if r != nil && r.fromModules {
		env = append(env, "GIT_PROTOCOL_FROM_USER=0")
		if r.allowFile {
			before = append(slices.Clone(before), "-c", "protocol.file.allow=always")
		}
	}
	end := "--end-of-options"
	if slices.Contains(command, "lfs") {
		end = "--"                                                  // it is not git's own
		env = append(env, "GIT_ASKPASS=false", "SSH_ASKPASS=false") // with an empty answer it would ask for ever
	}
	args := slices.Concat(before, command, []string{end, address}, rest)
	return r.git(ctx, call{args: args, env: append(env, ssh...)})
}

// Address is the URL that a remote, given by name or URL, is read from.
func (r *Repo) Address(ctx context.Context, remote string) (string, error) {
	return r.address(ctx, remote, false)
}

// address is the URL of a remote that is given by its name. With the name, git would also move refs/remotes/.
func (r *Repo) address(ctx context.Context, remote string, push bool) (string, error) {
	if strings.Contains(remote, ":") || strings.HasPrefix(remote, "/") || strings.HasPrefix(remote, ".") {
		return remote, nil
	}
	args := []string{"remote", "get-url"}
	if push {
		args = append(args, "--push")
	}
	url, err := r.line(ctx, append(args, "--", remote)...)
	if _, ran := proc.ExitCode(err); ran {
		return remote, nil // no such remote: git says so better than we could
	}
	return url, err
}

// overSSH says whether git may reach an address by ssh: by all that is not surely something else.
func overSSH(address string) bool {
	scheme, _, there := strings.Cut(address, "://")
	return !strings.HasPrefix(address, "/") && !(there && slices.Contains([]string{"http", "https", "file", "git"}, scheme))
}

// sshCommand bounds how long ssh waits, unless the user has set up an ssh of their own, and m does not ask for anything.
func (r *Repo) sshCommand(ctx context.Context, m Remote) ([]string, error) {
	options := m.sshOptions()
	if options == "" && (os.Getenv("GIT_SSH_COMMAND") != "" || os.Getenv("GIT_SSH") != "") {
		return nil, nil
	}
	if options == "" && r != nil {
		own, err := r.line(ctx, "config", "--default", "", "--get", "core.sshCommand")
		if err != nil || own != "" {
			return nil, err
		}
	}
	return []string{"GIT_SSH_COMMAND=ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15" + options}, nil
}

// withoutCredentials takes user and password out of an HTTP URL, because everybody on the machine can read the
// arguments of programs, and gives them to git by way of the environment, which only its owner can.
func withoutCredentials(remote string) (address string, env []string) {
	u, err := url.Parse(remote)
	if err != nil || u.User == nil || (u.Scheme != "https" && u.Scheme != "http") {
		return remote, nil
	}
	password, _ := u.User.Password()
	user := u.User.Username()
	u.User = nil
	const helper = `!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$GARRISON_GIT_USER" "$GARRISON_GIT_PASSWORD"; }; f`
	// Besides ours, no other helper.
	return u.String(), append([]string{"GARRISON_GIT_USER=" + user, "GARRISON_GIT_PASSWORD=" + password}, configEnv("credential.helper", "", "credential.helper", helper)...)
}

// refused is how git and ssh say that credentials are wrong. Neither has an exit status for it.
var refused = regexp.MustCompile(`Authentication failed|could not read (Username|Password)|Permission denied \(|(HTTP|error:) 40[13]\b`)

// remoteError tells apart what git says in words alone.
func remoteError(doing, remote string, err error) error {
	said := proc.Said(err)
	var timeout *fleet.Error
	switch {
	case strings.Contains(said, "REMOTE HOST IDENTIFICATION HAS CHANGED"):
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "cannot %s %s: its host key is another one than before", doing, Redact(remote)).
			WithHint("somebody may stand between; if the server did change its key, ask its operator for the new one and put it into known_hosts").WithCause(redacted(err))
	case strings.Contains(said, "Host key verification failed"):
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "cannot %s %s: its host key is not known here", doing, Redact(remote)).
			WithHint("put it into the known_hosts of the user that runs this: ssh-keyscan [-p PORT] HOST prints it; compare it with what the server's operator says").WithCause(redacted(err))
	case refused.MatchString(said):
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s %s: it refuses our credentials", doing, Redact(remote)).
			WithHint("renew the token or key that git uses for it").WithCause(redacted(err))
	case strings.Contains(said, "[remote rejected]") && !strings.Contains(said, "cannot lock ref"):
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s %s: it does not let us move these refs: %s", doing, Redact(remote), rejectedRefs(said)).
			WithHint("a hook or a protection of branch or tag is in the way: let the release user, and the hub's, write to them; a CI job is that user when it has its token, GARRISON_FORGE_TOKEN").WithCause(redacted(err))
	case errors.Is(err, errFull) || strings.Contains(said, "No space left on device"):
		return fleet.Errorf(fleet.Local, fleet.CodeGit, "cannot %s %s: no space left on this machine", doing, Redact(remote)).
			WithHint("make room on the disk, then run it again").WithCause(redacted(err))
	case errors.As(err, &timeout) && timeout.Code == fleet.CodeTimeout:
		return timeout
	}
	return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "cannot %s %s", doing, Redact(remote)).
		WithHint("is it up, and the address right? try: git ls-remote %s", Redact(remote)).WithCause(redacted(err))
}

var rejected = regexp.MustCompile(`(?m)\[remote rejected\] +\S+ -> (\S+)`)

// rejectedRefs names the refs of a push, of which none moved; which one is in the way, a forge may say or not.
func rejectedRefs(said string) string {
	var names []string
	for _, m := range rejected.FindAllStringSubmatch(said, -1) {
		names = append(names, m[1])
	}
	return strings.Join(names, ", ")
}

// redacted is what git said, without its exit status and credentials.
func redacted(err error) error { return errors.New(Redact(err.Error())) }

// Redact takes credentials out of URLs in s.
func Redact(s string) string { return proc.Redact(s) }
