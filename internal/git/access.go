package git

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Remote is a repository elsewhere, and what lets us in. The files are read again for every request.
type Remote struct {
	URL             string
	CredentialsFile string // for http(s): user:token, or a token alone
	SSHKeyFile      string // for ssh: a private key without a passphrase; default: what ssh finds
	KnownHostsFile  string // for ssh: the remote's host keys, and no others
}

// Files are those that let us in.
func (m Remote) Files() []string {
	var files []string
	for _, f := range []string{m.CredentialsFile, m.SSHKeyFile, m.KnownHostsFile} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// lettingInto is another repository, and what of m lets in to it: to another server no credentials go.
func (m Remote) lettingInto(address string) Remote {
	into := Remote{URL: address, SSHKeyFile: m.SSHKeyFile, KnownHostsFile: m.KnownHostsFile}
	if server := serverOf(address); server != "" && server == serverOf(m.URL) {
		into.CredentialsFile = m.CredentialsFile
	}
	return into
}

// serverOf is the beginning of an http(s) URL, up to its path; "" for others.
func serverOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return u.Scheme + "://" + u.Host + "/"
}

// FetchFrom is Fetch from a remote that has ways in of its own. Errors besides those of Fetch: CodeKey when a file of it cannot be used.
func (r *Repo) FetchFrom(ctx context.Context, m Remote, refspecs ...string) error {
	_, err := r.networkTo(ctx, m, r.fetchArgs(), refspecs)
	return talkError(ctx, "fetch from", m, err)
}

// ListTags lists the remote's tags whose names begin with prefix, by name. It needs nothing of a repository here, so that
// it also tells whether a fetch failed for the remote's sake or for ours.
func ListTags(ctx context.Context, m Remote, prefix string) (map[string]Ref, error) {
	out, err := (*Repo)(nil).talk(ctx, m, networkConfig, []string{"ls-remote", "--tags"}, []string{"refs/tags/" + prefix + "*"})
	if err != nil {
		return nil, talkError(ctx, "list the tags of", m, err)
	}
	return parseTags(out), nil
}

// ListBranches lists the remote's branches that match one of patterns, with their tips.
func ListBranches(ctx context.Context, m Remote, patterns ...string) (map[string]string, error) {
	const heads = "refs/heads/"
	var refs []string
	for _, p := range patterns {
		refs = append(refs, heads+p)
	}
	out, err := (*Repo)(nil).talk(ctx, m, networkConfig, []string{"ls-remote", "--heads"}, refs)
	if err != nil {
		return nil, talkError(ctx, "list the branches of", m, err)
	}
	tips := map[string]string{}
	for line := range strings.Lines(out) {
		if id, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"+heads); ok {
			tips[ref] = id
		}
	}
	return tips, nil
}

// parseTags reads lines of object and ref, in which that of a tag's commit follows that of the tag.
func parseTags(out string) map[string]Ref {
	tags := map[string]Ref{}
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		name, peeled := strings.CutSuffix(strings.TrimPrefix(name, "refs/tags/"), "^{}")
		ref := tags[name]
		if ref.Commit = id; !peeled {
			ref.ID = id
		}
		tags[name] = ref
	}
	return tags
}

func talkError(ctx context.Context, doing string, m Remote, err error) error {
	var e *fleet.Error
	if err == nil || ctx.Err() != nil || errors.As(err, &e) && e.Code == fleet.CodeKey {
		return err
	}
	noEntry := refused.MatchString(proc.Said(err)) // not: lets us in, and not move refs
	err = remoteError(doing, m.URL, err)
	if files := m.Files(); noEntry && fleet.CodeOf(err) == fleet.CodeUnauthorized && len(files) > 0 && errors.As(err, &e) {
		_ = e.WithHint("renew %s; it is read again by itself", files[0])
	}
	return err
}

// access is git's address of the remote, and the environment that lets git in.
func (m Remote) access() (address string, env []string, err error) {
	address, env = withoutCredentials(m.URL)
	for _, f := range []string{m.SSHKeyFile, m.KnownHostsFile} {
		if f == "" {
			continue
		}
		file, err := os.Open(f)
		if err != nil {
			return "", nil, unreadable(m, f, err)
		}
		file.Close()
	}
	if server := serverOf(address); m.CredentialsFile != "" && server != "" {
		user, token, err := readCredentials(m.CredentialsFile)
		if err != nil {
			return "", nil, unreadable(m, m.CredentialsFile, err)
		}
		// At once, and not after a refusal as a credential helper is asked: that would be one more round trip for every look.
		header := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+token))
		// To this server alone: git-lfs may be told of others.
		env = configEnv("credential.helper", "", "http."+server+".extraHeader", header)
	}
	return address, env, nil
}

// tokenUser goes with a token that stands alone: forges look at the token only.
const tokenUser = "git"

const maxCredentials = 16 << 10 // bytes

func readCredentials(path string) (user, token string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCredentials))
	if err != nil {
		return "", "", err
	}
	return parseCredentials(string(data))
}

func parseCredentials(text string) (user, token string, err error) {
	text = strings.TrimSpace(text)
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			return "", "", errors.New("it holds more than one line, or control characters")
		}
	}
	user, token, both := strings.Cut(text, ":")
	if !both {
		user, token = tokenUser, text
	}
	if token == "" {
		return "", "", errors.New("no token is in it")
	}
	return user, token, nil
}

func unreadable(m Remote, file string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot use what lets us in to %s", Redact(m.URL)).
		WithHint("put it right: %s; it is read again by itself", file).WithCause(err)
}

// configEnv are variables that have git read settings (name and value in turn) besides those that are given to it in this way already.
func configEnv(settings ...string) []string {
	n, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT"))
	env := []string{fmt.Sprintf("GIT_CONFIG_COUNT=%d", n+len(settings)/2)}
	for i := 0; i+1 < len(settings); i += 2 {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n+i/2, settings[i]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n+i/2, settings[i+1]))
	}
	return env
}

// sshOptions are those that m asks for, quoted for a shell.
func (m Remote) sshOptions() string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	options := ""
	if m.SSHKeyFile != "" {
		options += " -o IdentitiesOnly=yes -i " + quote(m.SSHKeyFile)
	}
	if m.KnownHostsFile != "" { // the value is split at blanks by ssh, too
		options += " -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=none -o UserKnownHostsFile=" + quote(`"`+m.KnownHostsFile+`"`)
	}
	return options
}
