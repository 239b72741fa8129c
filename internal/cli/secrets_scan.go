package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hostkey"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

type scanFlags struct {
	repo, host string
	port       uint16
	timeout    time.Duration
	write      bool
}

func (a *app) secretsScanHost() *cobra.Command {
	var f scanFlags
	cmd := &cobra.Command{
		Use:   "scan-host HOST[:PORT]",
		Short: "Read a host's public key over SSH, and compare it with what the fleet has",
		Long: `Scan-host asks the SSH server of HOST for its host key (ed25519, else rsa) without logging in, says how it
differs from what garrison.toml or the flake has, and prints the line for garrison.toml. Nothing vouches for
who answered: compare the fingerprint with the host's own before you trust it. With --write the key is put into
garrison.toml, beside the one that is known so far: both work until you take the old one out.`,
		Args: exactly("HOST[:PORT]"),
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.host, "host", "", "what the fleet calls the host (default: HOST up to its first dot)")
	fl.Uint16Var(&f.port, "port", 0, "port of the SSH server (default: 22)")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for the host")
	fl.BoolVar(&f.write, "write", false, "put the key into garrison.toml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.scan(cmd.Context(), f, args[0])
		if err != nil {
			return err
		}
		if f.write {
			if err := s.write(f.repo); err != nil {
				return err
			}
		}
		if *format == "json" {
			return a.json(s)
		}
		a.tellScanned(s)
		return nil
	}
	return cmd
}

// scanned is what scan-host -o json prints.
type scanned struct {
	Schema      int      `json:"schema"`
	Host        string   `json:"host"`
	Address     string   `json:"address"`
	Key         string   `json:"key"`
	Fingerprint string   `json:"fingerprint"`
	Known       []string `json:"known"`             // the keys that the fleet has for the host
	KnownFrom   string   `json:"knownFrom"`         // garrison.toml or flake; "" for nowhere
	Unknown     string   `json:"unknown,omitempty"` // why it cannot be told what the fleet has
	Match       bool     `json:"match"`             // it is one of Known
	Line        string   `json:"line"`              // for [secrets.hostKeys] in garrison.toml
	Written     bool     `json:"written"`

	unknown error
	keys    []string // in Line
}

func (a *app) scan(ctx context.Context, f scanFlags, target string) (*scanned, error) {
	name, address, err := sshAddress(target, f.port)
	if err != nil {
		return nil, err
	}
	s := &scanned{Schema: 1, Host: f.host, Address: address, Known: []string{}}
	if s.Host == "" {
		if s.Host = name; net.ParseIP(name) == nil {
			s.Host, _, _ = strings.Cut(name, ".")
		}
	}
	c, err := readFleetConfig(f.repo)
	if err != nil {
		return nil, err
	}
	key, err := hostkey.Read(ctx, address, f.timeout)
	if err != nil {
		return nil, err
	}
	s.Key, s.Fingerprint = key.Public, key.Fingerprint
	if known := c.HostKeys(s.Host); known != nil {
		s.Known, s.KnownFrom = known, release.ConfigPath
	} else if s.unknown = s.askFlake(ctx, f.repo, a); s.unknown != nil {
		if ctx.Err() != nil {
			return nil, s.unknown
		}
		s.Unknown = s.unknown.Error()
	}
	s.keys = s.Known
	if s.Match = slices.ContainsFunc(s.Known, func(k string) bool { return secret.SameKey(k, s.Key) }); !s.Match {
		s.keys = append(slices.Clone(s.Known), s.Key)
	}
	s.Line = release.HostKeysLine(s.Host, s.keys)
	return s, nil
}

// askFlake evaluates the host for the key that it declares.
func (s *scanned) askFlake(ctx context.Context, repo string, a *app) error {
	n, err := nix.Find(ctx)
	if err != nil {
		return err
	}
	r, err := git.Open(ctx, repo)
	if err != nil {
		return err
	}
	commit, _, err := git.WorkTree(ctx, repo)
	if err != nil {
		return err
	}
	keys, err := release.DeclaredHostKeys(ctx, release.Options{Repo: r, Source: commit, Nix: n, Log: a.logger()}, s.Host)
	if len(keys) > 0 {
		s.Known, s.KnownFrom = keys, "flake"
	}
	return err
}

// sshAddress splits HOST, HOST:PORT, [HOST]:PORT.
func sshAddress(target string, port uint16) (name, address string, err error) {
	name = strings.Trim(target, "[]")
	if host, p, err := net.SplitHostPort(target); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		switch {
		case err != nil || n == 0:
			return "", "", fleet.Errorf("", fleet.CodeUsage, "%q is not a port", p)
		case port != 0 && uint64(port) != n:
			return "", "", fleet.Errorf("", fleet.CodeUsage, "%s names port %s, and --port names %d", target, p, port)
		}
		name, port = host, uint16(n)
	}
	if name == "" || strings.ContainsAny(name, "@/ ") {
		return "", "", fleet.Errorf("", fleet.CodeUsage, "%q is not a host's name or address", target).WithHint("no user is needed: nobody is logged in")
	}
	if port == 0 {
		port = 22
	}
	return name, net.JoinHostPort(name, strconv.Itoa(int(port))), nil
}

// write puts the key into garrison.toml, unless it is known already.
func (s *scanned) write(repo string) error {
	switch {
	case s.unknown != nil:
		return fleet.Errorf(fleet.ClassOf(s.unknown), fleet.CodeOf(s.unknown), "nothing was written: it cannot be told which key of %s the fleet has", s.Host).
			WithHint("if the fleet calls it otherwise, say so with --host; -v shows why. To write it by hand, below [secrets.hostKeys]: %s", s.Line).WithCause(s.unknown)
	case s.Match:
		return nil
	}
	file := repo + "/" + release.ConfigPath
	data, err := os.ReadFile(file)
	perm := os.FileMode(0o644)
	if info, serr := os.Stat(file); serr == nil {
		perm = info.Mode().Perm()
	} else if os.IsNotExist(err) {
		err = nil
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot read %s", file).WithCause(err)
	}
	edited, err := release.SetHostKeys(file, data, s.Host, s.keys)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, edited, perm); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write %s", file).WithCause(err)
	}
	s.Written = true
	return nil
}

func (a *app) tellScanned(s *scanned) {
	fmt.Fprintf(a.Out, "%s (%s)\n  %s\n  %s\n", s.Host, s.Address, s.Key, s.Fingerprint)
	switch {
	case s.unknown != nil:
		fmt.Fprintf(a.Out, "what the fleet has for %s cannot be told: %s\n", s.Host, firstLine(s.Unknown))
	case s.Match && len(s.Known) == 1:
		fmt.Fprintf(a.Out, "the same as in %s\n", s.KnownFrom)
	case s.Match:
		fmt.Fprintf(a.Out, "one of the %d keys in %s\n", len(s.Known), s.KnownFrom)
	case len(s.Known) == 0:
		fmt.Fprintf(a.Out, "the fleet has no key of %s yet\n", s.Host)
	default:
		fmt.Fprintf(a.Out, "ANOTHER KEY than in %s, which has\n", s.KnownFrom)
		for _, k := range s.Known {
			fmt.Fprintf(a.Out, "  %s\n", k)
		}
	}
	if s.Match {
		return
	}
	if s.Written {
		fmt.Fprintf(a.Out, "written to %s:\n", release.ConfigPath)
	} else {
		fmt.Fprintf(a.Out, "for %s:\n", release.ConfigPath)
	}
	fmt.Fprintf(a.Out, "  [secrets.hostKeys]\n  %s\n", s.Line)
	fmt.Fprintf(a.Err, `warning: nothing vouches for this key but the network it came over: whoever answered would get the host's secrets.
  → compare on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub
`, strings.TrimPrefix(strings.Fields(s.Key)[0], "ssh-"))
}
