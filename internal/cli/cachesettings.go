package cli

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

func (a *app) cacheList() *cobra.Command {
	cmd := &cobra.Command{Use: "list [SERVER]", Short: "List the caches that you may do anything with"}
	format := output(cmd)
	p := a.placeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usage(cmd, fmt.Errorf("list takes the name of one server at most"))
		}
		c, err := p.server(strings.Join(args, ""))
		if err != nil {
			return err
		}
		list, err := c.Caches(cmd.Context())
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(struct {
				Schema int             `json:"schema"`
				Caches []client.Listed `json:"caches"`
			}{1, list})
		}
		w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
		for _, l := range list {
			who := "private"
			if l.Public {
				who = "public"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, who, l.PublicKey)
		}
		return w.Flush()
	}
	return cmd
}

// settingsFlags are those of create and configure.
type settingsFlags struct {
	public, private              bool
	priority                     int
	upstreams                    []string
	retention, quota             string
	pullThrough, pullThroughKeys []string
	resign, noPullThrough        bool
}

func (f *settingsFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.public, "public", false, "let anybody read it")
	flags.BoolVar(&f.private, "private", false, "let only those read it who have a token for it")
	flags.IntVar(&f.priority, "priority", 0, "Nix asks caches with lower numbers first; cache.nixos.org has 40; 0 = the server's")
	flags.StringArrayVar(&f.upstreams, "upstream-cache-key-name", nil, "name of a key: what it signed, Attic's client does not push; \"\" = none; not given: all that are pulled through")
	flags.StringVar(&f.retention, "retention", "", `how long a path is kept after its last use: "90d", "forever", or "global" for the server's`)
	flags.StringVar(&f.quota, "max-size", "", `how much may be stored: "500G", or "none"`)
	flags.StringArrayVar(&f.pullThrough, "pull-through", nil, "URL of a cache that is asked for what is not here; can be given several times")
	flags.StringArrayVar(&f.pullThroughKeys, "pull-through-key", nil, "public key of those caches, name:base64")
	flags.BoolVar(&f.resign, "resign", false, "sign what comes from those caches with this one's keys, too")
	flags.BoolVar(&f.noPullThrough, "no-pull-through", false, "ask no other caches any more")
}

// settings are what was said.
func (f *settingsFlags) settings(flags *pflag.FlagSet) (s client.Settings, err error) {
	if f.public && f.private {
		return s, errors.New("--public and --private exclude each other")
	}
	if flags.Changed("public") || flags.Changed("private") {
		public := f.public && !f.private
		s.Public = &public
	}
	if flags.Changed("priority") {
		s.Priority = &f.priority
	}
	if flags.Changed("upstream-cache-key-name") {
		s.UpstreamNames = &f.upstreams
	}
	switch f.retention {
	case "":
	case "global":
		s.Retention = "Global"
	case "forever":
		s.Retention = map[string]int64{"Period": 0}
	default:
		d, err := tomlfile.ParseDays(f.retention)
		if err != nil || d == 0 {
			return s, fmt.Errorf(`--retention is %q, and must be "global", "forever" or like "90d"`, f.retention)
		}
		s.Retention = map[string]int64{"Period": int64(d / time.Second)}
	}
	if f.quota != "" {
		n := int64(0)
		if f.quota != "none" {
			if n, err = parseSize(f.quota); err != nil || n == 0 {
				return s, fmt.Errorf(`--max-size is %q, and must be "none" or like "500G"`, f.quota)
			}
		}
		s.MaxBytes = &n
	}
	return s, f.pullThroughSettings(&s)
}

func (f *settingsFlags) pullThroughSettings(s *client.Settings) error {
	switch {
	case f.noPullThrough && len(f.pullThrough) > 0:
		return errors.New("--pull-through and --no-pull-through exclude each other")
	case len(f.pullThrough) == 0 && (len(f.pullThroughKeys) > 0 || f.resign):
		return errors.New("--pull-through-key and --resign are about --pull-through")
	case len(f.pullThrough) > 0 && len(f.pullThroughKeys) == 0:
		return errors.New("--pull-through-key is missing: what none of its keys signed is not taken")
	case len(f.pullThrough) == 0 && !f.noPullThrough:
		return nil
	}
	all := []client.PullThrough{}
	for _, url := range f.pullThrough {
		all = append(all, client.PullThrough{URL: url, Keys: f.pullThroughKeys, Resign: f.resign})
	}
	s.PullThrough = &all
	return nil
}

func (a *app) cacheCreate() *cobra.Command {
	var keyFile string
	var f settingsFlags
	cmd := &cobra.Command{Use: "create CACHE", Short: "Make a cache; private, unless --public", Args: exactly("the CACHE")}
	p := a.placeFlags(cmd)
	f.add(cmd)
	cmd.Flags().StringVar(&keyFile, "key-file", "", "its signing key, as nix-store --generate-binary-cache-key makes them; else a new one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.settings(cmd.Flags())
		if err != nil {
			return usage(cmd, err)
		}
		if s.Keypair, err = keypair(keyFile); err != nil {
			return err
		}
		c, err := p.cache(args[0])
		if err == nil {
			err = c.Create(cmd.Context(), s)
		}
		return err
	}
	return cmd
}

// keypair is the key in a file, or one that the server is to generate.
func keypair(file string) (any, error) {
	if file == "" {
		return "Generate", nil
	}
	b, err := readSmall(file)
	if err == nil {
		var key *nar.PrivateKey
		if key, err = nar.ParsePrivateKey(string(b)); err == nil {
			return map[string]string{"Keypair": key.Encode()}, nil
		}
	}
	return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the signing key %s cannot be used", file).WithCause(err).
		WithHint("it must hold a private key, name:base64, as nix-store --generate-binary-cache-key makes them")
}

func (a *app) cacheConfigure() *cobra.Command {
	var f settingsFlags
	cmd := &cobra.Command{Use: "configure CACHE", Short: "Change settings of a cache", Args: exactly("the CACHE")}
	p := a.placeFlags(cmd)
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.settings(cmd.Flags())
		if err != nil {
			return usage(cmd, err)
		}
		if s == (client.Settings{}) {
			return usage(cmd, fmt.Errorf("say what is to be changed"))
		}
		c, err := p.cache(args[0])
		if err == nil {
			err = c.Configure(cmd.Context(), s)
		}
		return err
	}
	return cmd
}

func (a *app) cacheDestroy() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "destroy CACHE", Short: "Remove a cache, its keys, and all that it holds", Args: exactly("the CACHE")}
	p := a.placeFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, it is meant")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes {
			return usage(cmd, fmt.Errorf("a destroyed cache, its signing keys too, does not come back: say --yes if %s is to go", args[0]))
		}
		c, err := p.cache(args[0])
		if err == nil {
			err = c.Destroy(cmd.Context())
		}
		return err
	}
	return cmd
}

func (a *app) cacheKey() *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "Add and remove signing keys", Args: noCommand,
		Long: `Add and remove signing keys of a cache. To go to a new key: add it, have every host trust both ("garrison cache info" shows them), remove the old one.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var file string
	add := &cobra.Command{Use: "add CACHE", Short: "Sign with one more key, and print its public half", Args: exactly("the CACHE")}
	format := output(add)
	p := a.placeFlags(add)
	add.Flags().StringVar(&file, "key-file", "", "the key, as nix-store --generate-binary-cache-key makes them; else a new one")
	add.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := keypair(file)
		if err != nil {
			return err
		}
		c, err := p.cache(args[0])
		if err != nil {
			return err
		}
		public, err := c.AddKey(cmd.Context(), key)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(map[string]any{"schema": 1, "publicKey": public})
		}
		_, err = fmt.Fprintln(a.Out, public)
		return err
	}
	remove := &cobra.Command{Use: "remove CACHE KEY", Short: "Sign with a key no more", Args: exactly("the CACHE", "the KEY's name")}
	from := a.placeFlags(remove)
	remove.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := from.cache(args[0])
		if err == nil {
			err = c.RemoveKey(cmd.Context(), args[1])
		}
		return err
	}
	cmd.AddCommand(add, remove)
	return cmd
}
