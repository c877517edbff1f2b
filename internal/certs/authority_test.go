package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/clock"
)

const day = 24 * time.Hour

// start is the moment at which the tests begin; the certificates know no other time.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// folder is a CA with identities, and the clock of all who use it. Without names it is yet to be made.
type folder struct {
	certs.Request
	t     *testing.T
	clock *clock.Simulated
}

func newFolder(t *testing.T, names ...string) *folder {
	t.Helper()
	f := &folder{t: t, clock: clock.NewSimulated(start)}
	f.Request = certs.Request{Dir: filepath.Join(t.TempDir(), "certs"), Clock: f.clock}
	if len(names) > 0 {
		f.do(certs.Create, names...)
	}
	return f
}

// do is Create, Renew, Rotate or Prune, for names.
func (f *folder) do(what func(certs.Request) ([]certs.Certificate, error), names ...string) []certs.Certificate {
	f.t.Helper()
	r := f.Request
	r.Names = names
	list, err := what(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

func (f *folder) path(file string) string { return filepath.Join(f.Dir, file) }

func (f *folder) read(file string) []byte {
	f.t.Helper()
	text, err := os.ReadFile(f.path(file))
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

func (f *folder) write(file string, text []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path(file), text, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) leaf(name string) *x509.Certificate {
	f.t.Helper()
	pair, err := tls.X509KeyPair(f.read(name+".pem"), f.read(name+".pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	return pair.Leaf
}

func (f *folder) roots() (list []*x509.Certificate) {
	f.t.Helper()
	for text := f.read(certs.RootsFile); ; {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.t.Fatal(err)
		}
		list = append(list, root)
	}
}

func TestCreateMakesWhatOthersVerify(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	r := f.Request
	r.Names, r.Hosts = []string{"gateway", "payments"}, []string{"shop.internal", "10.1.2.3", "localhost", "fd00::1"}
	if _, err := certs.Create(r); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.pem", "ca-key.pem", "gateway.pem", "payments.pem"} {
		if info, err := os.Stat(f.path(file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v; want 0600", file, info.Mode(), err)
		}
	}
	if info, err := os.Stat(f.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: got mode %v, %v; want 0700", info.Mode(), err)
	}
	root, leaf := f.roots()[0], f.leaf("payments")
	if got := root.NotAfter; !got.Equal(start.Add(3650 * day)) {
		t.Errorf("the CA ends on %s, want 10 years", got)
	}
	if got := leaf.NotAfter; !got.Equal(start.Add(90 * day)) {
		t.Errorf("the certificate ends on %s, want 90 days", got)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		for _, host := range []string{"localhost", "127.0.0.1", "::1", "shop.internal", "10.1.2.3", "fd00::1"} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s, usage %d: %v", host, usage, err)
			}
		}
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "banyan://payments" || len(leaf.DNSNames) != 2 || leaf.IsCA {
		t.Errorf("got URIs %v, names %v, CA %v", leaf.URIs, leaf.DNSNames, leaf.IsCA)
	}
	// A certificate must not sign further ones.
	if leaf.KeyUsage&x509.KeyUsageCertSign != 0 || !root.MaxPathLenZero || root.KeyUsage != x509.KeyUsageCertSign {
		t.Errorf("usages: leaf %d, root %d, path %d", leaf.KeyUsage, root.KeyUsage, root.MaxPathLen)
	}
}

func TestCreateAddsToACAButReplacesNothing(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway")
	before := map[string]string{}
	for _, file := range []string{"ca.pem", "ca-key.pem", "gateway.pem"} {
		before[file] = string(f.read(file))
	}
	unchanged := func() {
		t.Helper()
		for file, text := range before {
			if string(f.read(file)) != text {
				t.Errorf("%s was replaced", file)
			}
		}
	}
	r := f.Request
	r.Names = []string{"orders", "gateway"}
	if _, err := certs.Create(r); err == nil || !strings.Contains(err.Error(), "gateway.pem exists") {
		t.Errorf("got %v, want it refused", err)
	}
	if _, err := os.Stat(f.path("orders.pem")); err == nil {
		t.Error("orders.pem was made although all was refused")
	}
	f.do(certs.Create, "orders")
	unchanged()
	if err := f.leaf("orders").CheckSignatureFrom(f.roots()[0]); err != nil {
		t.Errorf("the one that was added: %v", err)
	}
	r.Overwrite, r.Names = true, []string{"gateway"}
	if _, err := certs.Create(r); err == nil || !strings.Contains(err.Error(), "orders would be left") {
		t.Errorf("got %v, want the one that would be left", err)
	}
	unchanged()
	r.Names = []string{"gateway", "orders"}
	if _, err := certs.Create(r); err != nil {
		t.Fatal(err)
	}
	for file, text := range before {
		if string(f.read(file)) == text {
			t.Errorf("%s was not replaced", file)
		}
	}
	if err := os.Remove(f.path("ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	r.Overwrite, r.Names = false, []string{"carts"}
	if _, err := certs.Create(r); err == nil || !strings.Contains(err.Error(), "ca-key.pem is not beside ca.pem") {
		t.Errorf("got %v, want the missing key", err)
	}
}

func TestTwoWhoCreateAtOnceMakeOneCA(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := t.TempDir()
		var both sync.WaitGroup
		for i := range 2 {
			both.Go(func() {
				_, _ = certs.Create(certs.Request{Dir: dir, Names: []string{fmt.Sprintf("m%d", i)}})
			})
		}
		both.Wait()
		list, err := certs.Show(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Problem != "" {
				t.Fatalf("%s: %s", c.File, c.Problem)
			}
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "orders")
	empty := t.TempDir()
	for name, c := range map[string]struct {
		do   func(certs.Request) ([]certs.Certificate, error)
		r    certs.Request
		want string
	}{
		"no folder":           {certs.Create, certs.Request{Names: []string{"a"}}, "dir: is empty"},
		"no names":            {certs.Create, certs.Request{Dir: f.Dir}, "names: there are none"},
		"capital letters":     {certs.Create, certs.Request{Dir: f.Dir, Names: []string{"Orders"}}, `names: "Orders" is not a name`},
		"a path":              {certs.Create, certs.Request{Dir: f.Dir, Names: []string{"../orders"}}, `"../orders" is not a name`},
		"the CA":              {certs.Create, certs.Request{Dir: f.Dir, Names: []string{"ca-key"}}, "is the name of a file of the CA"},
		"twice":               {certs.Create, certs.Request{Dir: f.Dir, Names: []string{"a", "a"}}, "a is there twice"},
		"a port":              {certs.Create, certs.Request{Dir: f.Dir, Names: []string{"a"}, Hosts: []string{"shop:8443"}}, `hosts: "shop:8443" is neither`},
		"a URL":               {certs.Renew, certs.Request{Dir: f.Dir, Hosts: []string{"https://shop"}}, `hosts: "https://shop" is neither`},
		"renew what is not":   {certs.Renew, certs.Request{Dir: f.Dir, Names: []string{"order"}}, "create makes it, renew only what is there (gateway, orders)"},
		"renew without a CA":  {certs.Renew, certs.Request{Dir: empty}, "create a CA first"},
		"rotate without a CA": {certs.Rotate, certs.Request{Dir: empty}, "create a CA first"},
		"prune without a CA":  {certs.Prune, certs.Request{Dir: empty}, "create a CA first"},
	} {
		if _, err := c.do(c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestRenewKeepsTheHostsAndIsNeverHalf(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	r := f.Request
	r.Names, r.Hosts = []string{"gateway", "orders"}, []string{"shop.internal", "10.1.2.3"}
	if _, err := certs.Create(r); err != nil {
		t.Fatal(err)
	}
	ended, done := make(chan struct{}), make(chan struct{})
	var seen atomic.Int32 // certificates that the reader has seen
	go func() {
		defer close(done)
		serials := map[string]bool{}
		for {
			text, err := os.ReadFile(f.path("orders.pem"))
			if err == nil {
				var pair tls.Certificate
				if pair, err = tls.X509KeyPair(text, text); err == nil {
					serials[pair.Leaf.SerialNumber.String()] = true
					seen.Store(int32(len(serials)))
				}
			}
			if err != nil {
				t.Errorf("a reader saw: %v", err)
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	}()
	gateway, old := f.leaf("gateway"), f.leaf("orders")
	for range 20 {
		f.clock.Advance(day)
		f.do(certs.Renew, "orders")
	}
	for seen.Load() < 5 && !t.Failed() { // it was not there when they changed
		f.do(certs.Renew, "orders")
	}
	close(ended)
	<-done
	renewed := f.leaf("orders")
	if !f.leaf("gateway").Equal(gateway) {
		t.Error("gateway was renewed too")
	}
	if diff := cmp.Diff(old.DNSNames, renewed.DNSNames); diff != "" || len(old.IPAddresses) != len(renewed.IPAddresses) {
		t.Errorf("hosts changed: %s, %v, want %v", diff, renewed.IPAddresses, old.IPAddresses)
	}
	if !renewed.NotAfter.Equal(start.Add(110*day)) || bytes.Equal(old.RawSubjectPublicKeyInfo, renewed.RawSubjectPublicKeyInfo) {
		t.Errorf("got until %s, and the key has to be a new one", renewed.NotAfter)
	}
	r.Names, r.Hosts = nil, []string{}
	if _, err := certs.Renew(r); err != nil {
		t.Fatal(err)
	}
	if got := f.leaf("gateway").DNSNames; len(got) != 1 || f.leaf("orders").DNSNames[0] != "localhost" {
		t.Errorf("hosts that were taken away: %v", got)
	}
	if left, err := filepath.Glob(f.path(".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestACertificateDoesNotOutliveItsCA(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "orders")
	f.clock.Advance(3650*day - 10*day)
	f.do(certs.Renew)
	if got, want := f.leaf("orders").NotAfter, f.roots()[0].NotAfter; !got.Equal(want) {
		t.Errorf("ends on %s, want the end of the CA, %s", got, want)
	}
	f.clock.Advance(11 * day)
	if _, err := certs.Renew(f.Request); err == nil || !strings.Contains(err.Error(), "rotate it") {
		t.Errorf("got %v, want the way out", err)
	}
	f.do(certs.Rotate)
	f.do(certs.Renew)
	f.do(certs.Prune)
	if n := len(f.roots()); n != 1 {
		t.Errorf("%d roots are left, want the new one", n)
	}
}

func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "orders")
	first := f.roots()[0]
	f.do(certs.Rotate)
	second := f.roots()[0]
	if roots := f.roots(); len(roots) != 2 || !roots[1].Equal(first) {
		t.Fatalf("after the rotation there are %d roots", len(roots))
	}
	f.do(certs.Renew, "orders")
	f.do(certs.Prune)
	if n := len(f.roots()); n != 2 {
		t.Errorf("%d roots are left, but gateway has a certificate of the old CA", n)
	}
	f.do(certs.Renew, "gateway")
	f.do(certs.Prune)
	if roots := f.roots(); len(roots) != 1 || !roots[0].Equal(second) {
		t.Errorf("%d roots are left, want the new one", len(roots))
	}
	f.write("orders.pem", []byte("nothing"))
	if _, err := certs.Prune(f.Request); err == nil || !strings.Contains(err.Error(), "orders.pem") {
		t.Errorf("got %v: with a file that cannot be read nobody knows what is needed", err)
	}
}

// Each process has the roots and its own key in a folder of its own, and nothing else; what changes is given again.
func TestGive(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments", "orders")
	to := map[string]string{}
	own := map[string]*folder{}
	for _, name := range []string{"gateway", "payments"} {
		to[name] = filepath.Join(t.TempDir(), "own", "certs")
		own[name] = &folder{Request: certs.Request{Dir: to[name], Clock: f.clock}, t: t, clock: f.clock}
	}
	steps := []func(certs.Request) ([]certs.Certificate, error){nil, certs.Rotate, certs.Renew, certs.Prune}
	for i, step := range steps {
		if step != nil {
			f.do(step)
		}
		if err := certs.Give(f.Dir, to); err != nil {
			t.Fatal(err)
		}
		for name, dir := range to {
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, file := range files {
				names = append(names, file.Name())
				if info, err := file.Info(); err != nil || info.Mode() != 0o600 {
					t.Errorf("step %d: %s of %s: %v, %v", i, file.Name(), name, info.Mode(), err)
				}
				if !bytes.Equal(own[name].read(file.Name()), f.read(file.Name())) {
					t.Errorf("step %d: %s of %s is an old one", i, file.Name(), name)
				}
			}
			if d := cmp.Diff([]string{certs.RootsFile, name + ".pem"}, names); d != "" {
				t.Errorf("step %d: %s has (-want +got):\n%s", i, name, d)
			}
		}
		if _, peer, err := dial(listen(t, own["payments"].open("payments").Server("gateway")), own["gateway"].open("gateway").Client("payments")); err != nil || peer != "gateway" {
			t.Errorf("step %d: got peer %q, %v", i, peer, err)
		}
	}
	for want, to := range map[string]map[string]string{
		"shipping.pem does not exist; there are gateway, orders, payments": {"shipping": t.TempDir()},
		"is the folder with all keys; name one for payments alone":         {"payments": f.Dir + "/."},
	} {
		if err := certs.Give(f.Dir, to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}

	// Everybody has the new root before anybody has what it signed.
	f.do(certs.Rotate)
	f.do(certs.Renew)
	if err := os.Remove(filepath.Join(to["gateway"], "gateway.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(to["gateway"], "gateway.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := certs.Give(f.Dir, to); err == nil {
		t.Fatal("a folder was replaced")
	}
	if !bytes.Equal(own["payments"].read(certs.RootsFile), f.read(certs.RootsFile)) {
		t.Error("payments has not got the new root")
	}
}

func TestRenewRefusesACAThatNobodyBelieves(t *testing.T) {
	t.Parallel()
	f, other := newFolder(t, "orders"), newFolder(t, "orders")
	f.write("ca.pem", other.read("ca.pem"))
	if _, err := certs.Renew(f.Request); err == nil || !strings.Contains(err.Error(), "does not hold the root") {
		t.Errorf("got %v", err)
	}
}

func TestShowTellsAllButTheKeys(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "orders", "carts", "users")
	f.write("carts.pem", []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"))
	f.write("users.pem", f.read("gateway.pem"))
	if err := os.Chmod(f.path("orders.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := certs.Show(f.Dir, f.clock)
	if err != nil {
		t.Fatal(err)
	}
	problems := map[string]string{}
	for _, c := range list {
		problems[c.File+" "+c.Kind] = c.Problem
	}
	for file, want := range map[string]string{
		"ca.pem root": "", "ca-key.pem signer": "", "gateway.pem identity": "",
		"orders.pem identity": "can be read by others", "carts.pem identity": "is not a certificate with its key",
		"users.pem identity": "is the certificate of gateway, not of users",
	} {
		if got, ok := problems[file]; !ok || (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got problem %q, want %q", file, got, want)
		}
	}
	encoded, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	header, rows := certs.Table(list)
	shown := string(encoded) + fmt.Sprint(header, rows) + fmt.Sprintf("%+v", list)
	for _, want := range []string{"banyan://gateway", "CN=gateway", "2026-05-30", "127.0.0.1", "CN=Banyan CA"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	for _, file := range []string{"ca-key.pem", "gateway.pem", "orders.pem", "carts.pem"} {
		for text := f.read(file); ; {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil {
				break
			}
			secret := strings.SplitAfter(string(pem.EncodeToMemory(block)), "\n")[1]
			if block.Type != "CERTIFICATE" && (strings.Contains(shown, strings.TrimSpace(secret)) || strings.Contains(shown, "PRIVATE")) {
				t.Errorf("the key of %s is shown", file)
			}
		}
	}
	f.clock.Advance(91 * day)
	list, err = certs.Show(f.Dir, f.clock)
	i := slices.IndexFunc(list, func(c certs.Certificate) bool { return c.File == "gateway.pem" })
	if err != nil || i < 0 || !strings.Contains(list[i].Problem, "expired") {
		t.Errorf("after 91 days: %v, %v", list, err)
	}
	if _, err := certs.Show(t.TempDir(), nil); err == nil {
		t.Error("an empty folder is shown without a word")
	}
}
