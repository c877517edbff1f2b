package e2e

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/demo/replay"

	"github.com/banyan-go/banyan/internal/testinfra"
)

type candidate struct {
	name string
	open func(b *testing.B) *shop
	out  bool
}

var shops = []candidate{
	{name: "sqlite", open: func(b *testing.B) *shop { return sqlite(b) }},
	{name: "postgres", open: func(b *testing.B) *shop { return postgres(b, true) }},
}

// BenchmarkFlip: from the wish until every process follows, out and home, on an idle shop; and while all connections to the broker are cut
// at some moment of each change.
func BenchmarkFlip(b *testing.B) {
	for _, engine := range shops {
		b.Run(engine.name, func(b *testing.B) { flip(b, engine, false) })
		b.Run(engine.name+", connections cut", func(b *testing.B) { flip(b, engine, true) })
	}
}

func flip(b *testing.B, engine candidate, cut bool) {
	broker := testinfra.Rabbit(b)
	line := testinfra.NewLine(b, broker.Addr())
	s := engine.open(b)
	s.env = append(s.env, "BANYAN_BUS_RABBITMQ_URL="+line.URL(broker.URL()))
	s.start()
	s.standIn("payments").start()
	s.placement(b, "set", "payments", "remote")
	s.placement(b, "set", "payments", "local")
	b.ResetTimer()
	var took []time.Duration
	for range b.N {
		for _, to := range []string{"remote", "local"} {
			var striking sync.WaitGroup
			if cut {
				striking.Go(func() {
					time.Sleep(rand.N(100 * time.Millisecond))
					line.Cut()
				})
			}
			start := time.Now()
			s.placement(b, "set", "payments", to)
			took = append(took, time.Since(start))
			striking.Wait()
		}
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(1), "max-ms")
	for _, transport := range []string{"rabbit", "local"} {
		half, all := switched(b, s, transport)
		b.ReportMetric(half*1000, "route-to-"+transport+"-p50-ms-at-most")
		b.ReportMetric(all*1000, "route-to-"+transport+"-max-ms-at-most")
	}
}

// switched is how long, in seconds, the messages of a route waited at most while it changed to a transport: half of the routes, and all.
// Buckets of a histogram say it, of the routes whose publisher is in the shop.
func switched(b testing.TB, s *shop, transport string) (half, all float64) {
	b.Helper()
	counts := map[float64]float64{}
	for _, line := range s.metrics(b, "banyan_route_switch_seconds_bucket{") {
		found := switchBucket.FindStringSubmatch(line)
		if found == nil || found[1] != transport {
			continue
		}
		le, err := strconv.ParseFloat(found[2], 64)
		n, failed := strconv.ParseFloat(found[3], 64)
		if err != nil || failed != nil {
			b.Fatal(line)
		}
		counts[le] += n
	}
	bounds := slices.Sorted(maps.Keys(counts))
	if len(bounds) == 0 {
		b.Fatalf("no route has changed to %s", transport)
	}
	total := counts[bounds[len(bounds)-1]]
	at := func(n float64) float64 {
		return bounds[slices.IndexFunc(bounds, func(le float64) bool { return counts[le] >= n })]
	}
	return at(total / 2), at(total)
}

var switchBucket = regexp.MustCompile(`^banyan_route_switch_seconds_bucket\{.*transport="(\w+)",le="([^"]+)"\} (\S+)`)

// BenchmarkCheckout: from the click until the order's stream says that it is confirmed, on an idle shop; in one process, and with
// payments in another one.
func BenchmarkCheckout(b *testing.B) {
	out := shops
	for _, engine := range shops {
		engine.name, engine.out = engine.name+", payments out", true
		out = append(out, engine)
	}
	for _, engine := range out {
		b.Run(engine.name, func(b *testing.B) {
			s := engine.open(b)
			if engine.out {
				s.env = append(s.env, "BANYAN_BUS_RABBITMQ_URL="+testinfra.Rabbit(b).URL())
			}
			s.start()
			if engine.out {
				s.standIn("payments").start()
				s.placement(b, "set", "payments", "remote")
			}
			admin := s.asAdmin()
			admin.stock(1_000_000, "MUG")
			customer := admin.customer("1")
			body := map[string]any{"customer_id": customer, "lines": []lineBody{{SKU: "MUG", Quantity: 1, Price: &priceBody{450, "GBP"}}}, "card": "tok_visa"}
			one := func() time.Duration {
				start := time.Now()
				var o struct {
					ID string `json:"id"`
				}
				admin.do("POST", "/api/orders", body).into(b, &o)
				req, err := http.NewRequestWithContext(b.Context(), "GET", "http://"+s.addr+"/api/orders/"+o.ID+"/events", nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+admin.token)
				resp, err := admin.http.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				lines := bufio.NewScanner(resp.Body)
				for lines.Scan() {
					if strings.Contains(lines.Text(), `"status":"confirmed"`) {
						return time.Since(start)
					}
				}
				b.Fatal("the order was not confirmed")
				return 0
			}
			for range 20 {
				one() // prepared statements, connections
			}
			b.ResetTimer()
			var took []time.Duration
			for range b.N {
				took = append(took, one())
			}
			slices.Sort(took)
			at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
			b.ReportMetric(at(.5), "p50-ms")
			b.ReportMetric(at(.99), "p99-ms")
		})
	}
}

// BenchmarkOrders: eight clients place orders of one line as fast as they can, until all are settled.
func BenchmarkOrders(b *testing.B) {
	for _, engine := range shops {
		b.Run(engine.name, func(b *testing.B) {
			s := engine.open(b).start()
			admin := s.asAdmin()
			admin.stock(1_000_000, "A", "B", "C", "D")
			customer := admin.customer("1")
			b.ResetTimer()
			var all sync.WaitGroup
			for c := range 8 {
				all.Go(func() {
					for i := c; i < b.N; i += 8 {
						a, err := admin.try("POST", "/api/orders", map[string]any{"customer_id": customer, "card": "tok_visa",
							"lines": []lineBody{{SKU: string(rune('A' + i%4)), Quantity: 1, Price: &priceBody{450, "GBP"}}}})
						if err != nil || a.Status != 201 {
							b.Errorf("order: %d %s (%v)", a.Status, a.Body, err)
						}
					}
				})
			}
			all.Wait()
			eventually(b, "all orders settle", func() bool {
				var summary struct{ Unsettled int }
				admin.do("GET", "/api/orders/reports/summary", nil).into(b, &summary)
				return summary.Unsettled == 0
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
		})
	}
}

// BenchmarkReplay: a month of real orders, 18 lines each in the middle.
func BenchmarkReplay(b *testing.B) {
	dir := retailDir(b)
	for _, engine := range shops {
		b.Run(engine.name, func(b *testing.B) {
			pace := 0.0
			for range b.N {
				s := engine.open(b).start()
				var timing replay.Timing
				if _, err := replay.Run(b.Context(), replay.Options{Target: "http://" + s.addr, Password: adminPassword, Files: []string{filepath.Join(dir, "2010-12.csv.gz")}, Timing: &timing}); err != nil {
					b.Fatal(err)
				}
				pace += timing.OrdersPerSecond()
				s.kill()
			}
			b.ReportMetric(pace/float64(b.N), "orders/s")
		})
	}
}

var readyAfter = regexp.MustCompile(`ready after (\d+) ms`)

// BenchmarkStart: a first start on an empty directory, and a second one.
func BenchmarkStart(b *testing.B) {
	var first, second float64
	for range b.N {
		s := sqlite(b).start()
		first += said(b, s)
		s.stop()
		s.start()
		second += said(b, s)
		s.stop()
	}
	b.ReportMetric(first/float64(b.N), "first-ms")
	b.ReportMetric(second/float64(b.N), "second-ms")
}

func said(b *testing.B, s *shop) float64 {
	b.Helper()
	var m []string
	eventually(b, "the shop says that it is ready", func() bool {
		m = readyAfter.FindStringSubmatch(s.out.String())
		return m != nil
	})
	ms, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return ms
}

// BenchmarkIdleMemory: what the process holds a minute after its second start.
func BenchmarkIdleMemory(b *testing.B) {
	s := sqlite(b).start()
	s.stop()
	s.start()
	<-time.After(time.Minute)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		for name, unit := range map[string]string{"VmRSS:": "RSS-MiB", "RssAnon:": "anonymous-MiB"} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(kb/1024, unit)
			}
		}
	}
}
