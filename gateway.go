package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/modules"
	"github.com/banyan-go/banyan/proxy"
)

// gatewayAnswers are what operators may ask of the gateway.
func gatewayAnswers(g *proxy.Gateway, keys *control.Ring) map[string]operator.Answer {
	return map[string]operator.Answer{
		"GET /routes":     func(*http.Request) (any, error) { return g.Routes(), nil },
		"GET /placements": func(*http.Request) (any, error) { return g.Placements(), nil },
		"GET /upstreams":  func(*http.Request) (any, error) { return g.Upstreams(), nil },
		"GET /gates":      func(*http.Request) (any, error) { return g.Gates(), nil },
		"GET /route": func(r *http.Request) (any, error) {
			q := r.URL.Query()
			return g.Explain(q.Get("method"), q.Get("path"), q.Get("user"), identity.Role(q.Get("role")), q.Get("wish"))
		},
		"GET /shadow/{module}": func(r *http.Request) (any, error) {
			if err := known(r.PathValue("module")); err != nil {
				return nil, err
			}
			return g.ShadowReport(r.PathValue("module"))
		},
		"GET /keys": func(r *http.Request) (any, error) { return keys.Keys(r.Context()) },
		"POST /keys/rotate": func(r *http.Request) (any, error) {
			return keys.Rotate(r.Context(), control.RotateOptions{Compromised: r.URL.Query().Get("compromised") == "true"})
		},
	}
}

func routesCommand(s *settings) *cobra.Command {
	return &cobra.Command{Use: "routes", Short: "Print who answers for what", Args: cobra.NoArgs,
		Long: "Print the route table of the running shop: each route with its module, the least role that may use it,\nthe module's placement, and where its requests go.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var list []proxy.RouteInfo
			if err := a.Get(cmd.Context(), cli.Path("routes"), &list); err != nil {
				return err
			}
			rows := make([][]any, len(list))
			for i, r := range list {
				rows[i] = []any{r.Method, r.Path, r.Module, r.Class, role(r.Auth), r.Placement, r.Target}
			}
			return s.output(cmd).Print(list, []string{"method", "path", "module", "class", "role", "placement", "target"}, rows)
		}}
}

func role(r identity.Role) string {
	if r == identity.Anonymous {
		return "anybody"
	}
	return string(r)
}

func routeCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "route", Short: "Say what becomes of a request"}
	var user, as, wish string
	explain := &cobra.Command{Use: "explain METHOD PATH", Short: "Say which route, placement, bucket and target a request gets, and why", Args: cobra.ExactArgs(2),
		Long: "Say which route, placement, bucket and target a request gets in the running shop, and why. Nothing is sent.",
		Example: "  banyan route explain GET /api/orders/1\n" +
			"  banyan route explain GET /api/orders/1 --user 0193f0a2-7a53-7d6e-9d3c-3f1f3b1a2c11",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var e proxy.Explanation
			if err := a.Get(cmd.Context(), cli.Path("route")+cli.Query("method", args[0], "path", args[1], "user", user, "role", as, "wish", wish), &e); err != nil {
				return err
			}
			bucket := "-"
			if e.Bucket != nil {
				bucket = fmt.Sprint(*e.Bucket)
			}
			placement := string(e.Placement.State)
			if e.Placement.State == proxy.Canary {
				placement += fmt.Sprintf(" (reads %d, writes %d of 10000)", e.Placement.Reads, e.Placement.Writes)
			}
			rows := [][]any{{"path", e.Path}, {"route", e.Route}, {"module", e.Module}, {"class", e.Class}, {"role", role(identity.Role(e.Auth))},
				{"placement", placement}, {"bucket", bucket}, {"target", e.Target}, {"reason", e.Reason}, {"epoch", e.Epoch}}
			if e.Rule != "" {
				rows = append(rows, []any{"transform", e.Rule})
			}
			return s.output(cmd).Print(e, []string{"what", "value"}, rows)
		}}
	explain.Flags().StringVar(&user, "user", "", "`id` of the user who asks (default nobody)")
	explain.Flags().StringVar(&as, "role", "", "`role` of the user: customer, staff or admin (default customer)")
	explain.Flags().StringVar(&wish, "wish", "", "`side` that an admin asks for with X-Banyan-Route: local or remote")
	root.AddCommand(explain)
	return root
}

func shadowCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "shadow", Short: "What the comparison of a module's answers has found"}
	root.AddCommand(&cobra.Command{Use: "report MODULE", Short: "Print how a module's second process answers, compared with this one, route by route", Args: cobra.ExactArgs(1),
		Long: "Print what the comparison has found while the module is in shadow. With --json: the judgement, the paths that differ and samples.",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var all map[string]any
			if err := a.Get(cmd.Context(), cli.Path("shadow", args[0]), &all); err != nil {
				return err
			}
			report, _ := all["report"].(map[string]any)
			routes, _ := report["routes"].([]any)
			var rows [][]any
			for _, one := range routes {
				r, _ := one.(map[string]any)
				var paths []string
				list, _ := r["paths"].([]any)
				for _, p := range list {
					if m, _ := p.(map[string]any); m != nil {
						if n, _ := m["mismatch"].(float64); n > 0 {
							paths = append(paths, fmt.Sprint(m["path"]))
						}
					}
				}
				rows = append(rows, []any{r["route"], r["compared"], r["equal"], r["noise"], r["skew"], r["mismatch"], r["failed"], r["dropped"], strings.Join(paths, " ")})
			}
			out := s.output(cmd)
			if err := out.Print(all, []string{"route", "compared", "equal", "noise", "skew", "mismatch", "failed", "dropped", "differs at"}, rows); err != nil || out.JSON {
				return err
			}
			judgement, _ := all["judgement"].(map[string]any)
			_, err = fmt.Fprintf(out.W, "verdict: %v\n", judgement["verdict"])
			return err
		}})
	return root
}

func keysCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "keys", Short: "List or rotate the keys that sign tokens"}
	var compromised bool
	list := func(cmd *cobra.Command, keys []control.KeyInfo) error {
		rows := make([][]any, len(keys))
		for i, k := range keys {
			rows[i] = []any{k.ID, k.State, k.CreatedAt.Format(time.RFC3339)}
		}
		return s.output(cmd).Print(keys, []string{"id", "state", "created"}, rows)
	}
	rotate := &cobra.Command{Use: "rotate", Short: "Make a new key: it signs when every replica knows it, and the old one goes when its last token has expired", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var k control.KeyInfo
			if err := a.Post(cmd.Context(), cli.Path("keys", "rotate")+cli.Query("compromised", fmt.Sprint(compromised)), nil, &k); err != nil {
				return err
			}
			return list(cmd, []control.KeyInfo{k})
		}}
	rotate.Flags().BoolVar(&compromised, "compromised", false, "drop the old keys at once: every client has to refresh its token")
	root.AddCommand(&cobra.Command{Use: "list", Short: "List the keys with their states", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		a, err := s.admin(cmd)
		if err != nil {
			return err
		}
		var keys []control.KeyInfo
		if err := a.Get(cmd.Context(), cli.Path("keys"), &keys); err != nil {
			return err
		}
		return list(cmd, keys)
	}}, rotate)
	return root
}

func certsCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "certs", Short: "Make the certificates by which our own processes know each other",
		Long: `A folder with a small certificate authority, and a certificate for the gateway and for each module. A process needs ca.pem and
its own file of it, in the folder that gateway.certs names; ca-key.pem stays where it was made. Changed files are taken up while they run.

With --give payments=./payments/certs those two files are put there as well; so it is at each change of them, or later (banyan certs show).`}
	r := certs.Request{}
	give := map[string]string{}
	print := func(cmd *cobra.Command, list []certs.Certificate, err error) error {
		if err != nil {
			return err
		}
		header, rows := certs.Table(list)
		return s.output(cmd).Print(list, header, rows)
	}
	sub := func(use, short string, flags func(*cobra.Command), run func() ([]certs.Certificate, error)) {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Dir == "" {
				return misused(cmd, errors.New("--dir is empty"))
			}
			list, err := run()
			if err == nil {
				err = certs.Give(r.Dir, give)
			}
			return print(cmd, list, err)
		}}
		c.Flags().StringVar(&r.Dir, "dir", "./certs", "`folder` of the certificates")
		c.Flags().StringToStringVar(&give, "give", nil, "put what a process needs into a `name=folder` of its own, too")
		flags(c)
		root.AddCommand(c)
	}
	none := func(*cobra.Command) {}
	named := func(c *cobra.Command) {
		c.Flags().StringSliceVar(&r.Names, "names", nil, "`names` of the processes (default the gateway and all modules)")
		c.Flags().StringSliceVar(&r.Hosts, "hosts", nil, "host `names` and addresses beside localhost")
	}
	everybody := func() {
		if len(r.Names) == 0 {
			r.Names = append([]string{gatewayName}, modules.Names()...)
		}
	}
	sub("create", "Make the authority, and a certificate for each name", func(c *cobra.Command) {
		named(c)
		c.Flags().BoolVar(&r.Overwrite, "overwrite", false, "replace what is there: nobody who knows the old authority believes the new one")
	}, func() ([]certs.Certificate, error) { everybody(); return certs.Create(r) })
	sub("renew", "Make new certificates of the same authority", named, func() ([]certs.Certificate, error) { return certs.Renew(r) })
	sub("rotate", "Make a new authority beside the old one: then renew, then prune", none, func() ([]certs.Certificate, error) { return certs.Rotate(r) })
	sub("prune", "Take out authorities that have signed nothing that is in use", none, func() ([]certs.Certificate, error) { return certs.Prune(r) })
	sub("show", "Show the certificates, without their keys", none, func() ([]certs.Certificate, error) { return certs.Show(r.Dir, nil) })
	return root
}

// known refuses a name that no module has.
func known(name string) error {
	if !slices.Contains(modules.Names(), name) {
		return noModule(name)
	}
	return nil
}

// noModule is the error for a name that no module has.
func noModule(name string) error {
	return usageError{errs.New(errs.NotFound, "there is no module %q; there are %s", name, strings.Join(modules.Names(), ", "))}
}
