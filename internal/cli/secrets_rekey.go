package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

type rekeyFlags struct {
	evalFlags
	repo       string
	identities []string
	dryRun     bool
}

func (a *app) secretsRekey() *cobra.Command {
	var f rekeyFlags
	cmd := &cobra.Command{
		Use:   "rekey [FILE...]",
		Short: "Encrypt the secrets of the source branch again for the editors of now",
		Long: `Rekey brings the secrets in the work tree in line with secrets.editors in garrison.toml, after an editor came or
went: those that hosts declare or agenix's rules name, or the FILEs named. Where garrison.toml names no editors, each file is
for whom its rule in secrets.nix names. Only files that are for others are written. All are decrypted and
encrypted in memory before the first is written; if anything fails, every file stays as it was. Review and commit
what it changed. (What a release would re-key for the hosts, garrison plan says.)`,
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringArrayVar(&f.identities, "identity", nil, "an editor's private key (age, SSH, or a plugin's) that can read the files now; may be repeated")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be written, and write nothing; without --identity nothing is decrypted either")
	f.evalFlags.add(fl)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		out, err := a.runRekey(cmd.Context(), f, args)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(out)
		}
		a.tellRekeyed(out)
		return nil
	}
	return cmd
}

// rekeyed is what rekey -o json prints.
type rekeyed struct {
	Schema  int               `json:"schema"`
	DryRun  bool              `json:"dryRun"`
	Changed []secret.Resealed `json:"changed"`
	Kept    []string          `json:"kept"`       // they are for the editors already
	Others  []string          `json:"undeclared"` // encrypted files that no host declares: left alone
}

func (a *app) runRekey(ctx context.Context, f rekeyFlags, named []string) (*rekeyed, error) {
	c, err := readFleetConfig(f.repo)
	if err != nil {
		return nil, err
	}
	readers, err := a.readersOf(ctx, f.repo, c)
	if err != nil {
		return nil, err
	}
	out := &rekeyed{Schema: 1, DryRun: f.dryRun, Kept: []string{}, Others: []string{}}
	keys := map[string][]string{}
	for host := range c.Secrets.HostKeys {
		keys[host] = c.HostKeys(host)
	}
	files := map[string]string{} // as shown → on disk
	for _, name := range named {
		files[name] = name
	}
	if len(named) == 0 {
		if files, keys, err = a.declared(ctx, f, out); err != nil {
			return nil, err
		}
	}
	sources, err := readSources(files)
	if err != nil {
		return nil, err
	}
	if err := readers.forEach(sources, files); err != nil {
		return nil, err
	}
	if out.Changed, err = secret.PlanReseal(sources, readers.keyring(keys)); err != nil {
		return nil, err
	}
	for _, s := range sources {
		if !slices.ContainsFunc(out.Changed, func(r secret.Resealed) bool { return r.Path == s.Path }) {
			out.Kept = append(out.Kept, s.Path)
		}
	}
	if len(out.Changed) == 0 || f.dryRun && f.identities == nil {
		return out, nil
	}
	return out, a.reseal(ctx, f, out, files, readers.ui)
}

// declared finds the secrets that hosts declare in the work tree, and notes what else is encrypted there.
func (a *app) declared(ctx context.Context, f rekeyFlags, out *rekeyed) (files map[string]string, keys map[string][]string, err error) {
	o, err := a.workTree(ctx, f.repo)
	if err != nil {
		return nil, nil, err
	}
	top, err := git.TopLevel(ctx, f.repo)
	if err != nil {
		return nil, nil, err
	}
	o.Jobs, o.EvalMemory = f.jobs, int64(f.memory)
	d, err := release.DeclaredSecrets(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	files = map[string]string{}
	for path := range d.Hosts {
		files[path] = filepath.Join(top, path)
	}
	if d.Rules != nil {
		for path := range d.Rules.Of {
			files[path] = filepath.Join(top, path)
		}
	}
	for _, path := range d.Files {
		if files[path] != "" || !release.SecretFile(path) {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(top, path)); err == nil && secret.KindOf(data) != secret.KindAuto {
			out.Others = append(out.Others, path)
		}
	}
	return files, d.HostKeys, nil
}

// readSources reads all files, sorted by how they are shown, or names all that cannot be read.
func readSources(files map[string]string) ([]secret.SourceFile, error) {
	var sources []secret.SourceFile
	var bad []string
	for _, name := range sortedKeys(files) {
		info, err := os.Lstat(files[name])
		var data []byte
		switch {
		case err == nil && !info.Mode().IsRegular():
			err = errors.New("not a regular file")
		case err == nil && info.Size() > secret.MaxFileBytes:
			err = fmt.Errorf("more than %d bytes", secret.MaxFileBytes)
		case err == nil:
			data, err = os.ReadFile(files[name])
		}
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s (%v)", name, err))
		}
		sources = append(sources, secret.SourceFile{Path: name, Data: data})
	}
	if bad != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeSecret, "these secrets cannot be read: %s", strings.Join(bad, "; ")).
			WithHint("a secret that a host declares, or that a rule names, must be in the work tree and in git")
	}
	return sources, nil
}

// reseal does what is planned, and writes it unless it is a dry run.
func (a *app) reseal(ctx context.Context, f rekeyFlags, out *rekeyed, files map[string]string, ui *plugin.ClientUI) error {
	if f.identities == nil {
		return fleet.Errorf("", fleet.CodeUsage, "--identity is missing: %d files must be decrypted first", len(out.Changed)).
			WithHint("--dry-run says which, without a key")
	}
	var ids []age.Identity
	for _, file := range f.identities {
		more, err := secret.LoadIdentitiesWith(file, ui)
		if err != nil {
			return err
		}
		ids = append(ids, more...)
	}
	sealed, err := secret.Reseal(ctx, out.Changed, ids)
	if err != nil || f.dryRun {
		return err
	}
	on := map[string][]byte{}
	for path, data := range sealed {
		on[files[path]] = data
	}
	if err := durable.ReplaceFiles(on); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the files cannot be written; they are as they were").WithHint("check their owner, and the free space").WithCause(err)
	}
	return nil
}

func (a *app) tellRekeyed(out *rekeyed) {
	what := "encrypted again"
	if out.DryRun {
		what = "would be encrypted again"
	}
	for _, r := range out.Changed {
		fmt.Fprintf(a.Out, "%s %s: %s\n", r.Path, what, r.Why)
		if len(r.Gains) > 0 {
			fmt.Fprintf(a.Out, "  for %s\n", strings.Join(r.Gains, ", "))
		}
		if len(r.Loses) > 0 {
			fmt.Fprintf(a.Out, "  no longer for %s\n  ROTATE this value: whoever could read it has read it\n", strings.Join(r.Loses, ", "))
		}
	}
	fmt.Fprintf(a.Out, "%d of %d secrets %s\n", len(out.Changed), len(out.Changed)+len(out.Kept), what)
	if len(out.Others) > 0 {
		fmt.Fprintf(a.Out, "declared by no host, and left alone: %s\n", strings.Join(out.Others, ", "))
	}
}
