package cli

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/proc"
)

// ciInputs are what a CI job may be given as a file, or as it is.
var ciInputs = []struct {
	env, flag, help string
	public          bool // need not be hidden
}{
	{"GARRISON_KEY", "key", "SSH private key that signs the release", false},
	{"GARRISON_IDENTITY", "identity", "private key (age or SSH) that secrets on the source branch are readable with", false},
	{"GARRISON_CACHE_TOKEN", "cache-token-file", "file with the token that may push to the cache", false},
	{"GARRISON_HUB_TOKEN", "hub-token-file", "file with a token of the hub, of the scopes wake and ci", false},
	{"GARRISON_MIRROR_CREDENTIALS", "mirror-credentials", "file with lines like https://user:token@host, for mirrors on that host", false},
	{"GARRISON_FORGE_TOKEN", "forge-token-file", "file with a token of the forge, in place of the job's own", false},
	{"GARRISON_ALLOWED_SIGNERS", "allowed-signers", "file with the keys that may have signed earlier releases (default: --key)", true},
	{"GARRISON_SOURCE_SIGNERS", "source-signers", "file with the keys that may sign commits on the source branch (default: source.signers of the last release)", true},
}

// jobTokens are the names under which CI systems hand out the job's own token. Like all else that lets in somewhere, no program that is started gets them.
var jobTokens = []string{"GITHUB_TOKEN", "FORGEJO_TOKEN", "GITEA_TOKEN", "GITLAB_TOKEN", "CI_JOB_TOKEN"}

var runnerTokens = []string{"ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "CI_REPOSITORY_URL", "CI_REGISTRY_PASSWORD", "CI_DEPLOY_PASSWORD"}

// ciSecrets are what a run was given. Contents are in memory alone: each is a file without a name on any disk, so that whatever takes a file takes it.
type ciSecrets struct {
	files   map[string]string // ciInputs' env → file; "" when it was not given
	token   string            // of the forge
	job     bool              // the token is GitLab's for the job, which its API hardly takes
	hidden  []string
	mirrors credentials
	open    []*os.File
}

// takeSecrets takes what the environment has out of it. For a stranger's change it reads nothing but the job's own token.
func takeSecrets(f ciFlags, stranger, inActions bool, stderr io.Writer) (*ciSecrets, error) {
	s := &ciSecrets{files: map[string]string{}}
	var failed error
	for _, in := range ciInputs {
		if stranger && !in.public {
			os.Unsetenv(in.env)
			continue
		}
		s.files[in.env] = *f.files[in.env]
		if s.files[in.env] == "" {
			s.files[in.env] = os.Getenv(in.env + "_FILE")
		}
		content := os.Getenv(in.env)
		os.Unsetenv(in.env)
		if s.files[in.env] != "" || strings.TrimSpace(content) == "" || failed != nil {
			continue
		}
		if !in.public {
			s.hideValue(content)
		}
		s.files[in.env], failed = s.file(in.env, content)
	}
	for _, name := range jobTokens {
		if v := os.Getenv(name); v != "" && s.token == "" {
			s.token, s.job = v, name == "CI_JOB_TOKEN"
		}
		s.hideValue(os.Getenv(name))
		os.Unsetenv(name)
	}
	for _, name := range runnerTokens {
		os.Unsetenv(name)
	}
	if file := s.files["GARRISON_FORGE_TOKEN"]; file != "" && failed == nil {
		s.job = false
		if s.token, failed = tokenFrom(file)(); failed == nil {
			s.hideValue(s.token)
		}
	}
	if file := s.files["GARRISON_MIRROR_CREDENTIALS"]; file != "" && failed == nil {
		s.mirrors, failed = readCredentials(file, "the mirrors' credentials")
		for _, u := range s.mirrors {
			if token, ok := u.User.Password(); ok {
				s.hideValue(token)
			}
		}
	}
	if failed != nil {
		s.close()
		return nil, failed
	}
	if inActions {
		s.mask(stderr)
	}
	return s, nil
}

// file makes a file of content that is on no disk, and that programs of this user open by its path.
func (s *ciSecrets) file(name, content string) (string, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "%s cannot be kept in memory", name).WithHint("give it as a file: %s_FILE", name).WithCause(err)
	}
	f := os.NewFile(uintptr(fd), name)
	s.open = append(s.open, f)
	// Where secrets are pasted into forms, line ends get lost; ssh-keygen insists on the last one.
	text := strings.TrimSpace(strings.ReplaceAll(content, "\r\n", "\n")) + "\n"
	if _, err = f.WriteString(text); err == nil {
		err = unix.Fchmod(fd, 0o600) // ssh-keygen looks at it
	}
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "%s cannot be kept in memory", name).WithCause(err)
	}
	self, err := os.Readlink("/proc/self") // not by our own number: a runner may have one for itself, and /proc another
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "%s cannot be kept in memory: there is no /proc", name).WithHint("give it as a file: %s_FILE", name).WithCause(err)
	}
	return fmt.Sprintf("/proc/%s/fd/%d", self, fd), nil
}

// leastHidden is the shortest part of a secret that is searched for in what is printed, in bytes: shorter ones stand everywhere.
const leastHidden = 6

// hideValue notes each line of a secret: programs that repeat it seldom do so as a whole.
func (s *ciSecrets) hideValue(v string) {
	for line := range strings.Lines(v) {
		if line = strings.TrimSpace(line); len(line) >= leastHidden && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "#") {
			s.hidden = append(s.hidden, line)
		}
	}
}

// mask has the runner keep the secrets out of its log. Where standard error leads to a file, there is no runner to hear it.
func (s *ciSecrets) mask(stderr io.Writer) {
	if f, ok := stderr.(*os.File); ok {
		if st, err := f.Stat(); err != nil || st.Mode().IsRegular() {
			return
		}
	}
	for _, line := range s.hidden {
		fmt.Fprintf(stderr, "::add-mask::%s\n", line)
	}
}

func (s *ciSecrets) redact(text string) string {
	for _, h := range s.hidden {
		text = strings.ReplaceAll(text, h, "…")
	}
	return proc.Redact(text)
}

// hide keeps the secrets out of what is written to w.
func (s *ciSecrets) hide(w io.Writer) io.Writer {
	if len(s.hidden) == 0 {
		return w
	}
	return &hiding{w, s}
}

type hiding struct {
	to io.Writer
	s  *ciSecrets
}

func (h *hiding) Write(b []byte) (int, error) {
	text := string(b)
	for _, secret := range h.s.hidden {
		text = strings.ReplaceAll(text, secret, "…")
	}
	if _, err := io.WriteString(h.to, text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// letIn is a remote's URL with the forge's token in it, if it is the forge's; git gets it from there by its environment alone.
func (s *ciSecrets) letIn(address string, kind forge.Kind, home string) string {
	u, err := url.Parse(address)
	at, herr := url.Parse(home)
	if s.token == "" || err != nil || herr != nil || u.User != nil && (u.User.Username() != gitlabJobUser || s.job) || u.Scheme != at.Scheme || u.Host != at.Host || u.Scheme != "https" && u.Scheme != "http" {
		return address
	}
	u.User = url.UserPassword(forgeUser(kind, s.job), s.token)
	return u.String()
}

// forgeUser is the name that goes with a token where git asks for one; of GitLab's own jobs it is another.
func forgeUser(kind forge.Kind, job bool) string {
	switch {
	case kind == forge.GitLab && job:
		return gitlabJobUser
	case kind == forge.GitLab:
		return "oauth2"
	}
	return "x-access-token"
}

// gitlabJobUser comes with a token that may fetch and no more; GitLab puts it into the remote's URL.
const gitlabJobUser = "gitlab-ci-token"

func (s *ciSecrets) close() {
	for _, f := range s.open {
		_ = f.Close() // there is nothing to lose in it
	}
	s.open = nil
}
