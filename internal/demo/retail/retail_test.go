package retail

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"

// rows makes a file of rows "invoice,code,quantity,price,customer".
func rows(lines ...string) string {
	var b strings.Builder
	b.WriteString(head)
	for _, l := range lines {
		f := strings.Split(l, ",")
		b.WriteString(f[0] + "," + f[1] + ",THING " + f[1] + "," + f[2] + ",2010-12-01 08:26:00," + f[3] + "," + f[4] + ",United Kingdom\n")
	}
	return b.String()
}

func planOf(t *testing.T, files ...string) *Plan {
	t.Helper()
	b := newBuilder()
	for i, content := range files {
		if err := b.add("file"+string(rune('1'+i)), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// flat is a step as text.
func flat(p *Plan) []string {
	var out []string
	for _, s := range p.Steps {
		what, lines := "", []Line(nil)
		if s.Order != nil {
			what, lines = "order "+s.Order.Invoice, s.Order.Lines
		} else {
			what, lines = s.Return.Credit+" of "+s.Return.Order.Invoice, s.Return.Lines
		}
		for _, l := range lines {
			what += " " + l.Code + "*" + itoa(l.Quantity) + "@" + itoa(l.Price)
		}
		out = append(out, s.Customer+": "+what)
	}
	return out
}

func itoa(n int64) string { b, _ := json.Marshal(n); return string(b) }

func TestPlan(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		rows      []string
		steps     []string
		skipped   map[string]int64
		unmatched figures
	}{
		{
			"lines of a product and price are one, of another price another",
			[]string{"1,A,2,1.50,17.0", "1,A,3,1.50,17.0", "1,A,1,1.25,17.0", "2,A,1,1.50,18"},
			[]string{"17: order 1 A*5@150 A*1@125", "18: order 2 A*1@150"}, nil, figures{},
		},
		{
			"rows are skipped for the first reason that applies",
			[]string{"1,A,2,1.50,17", "X,A,x,x,", "A563185,B,1,11062.06,17", "2,A,x,0.004,17", "C3,A,-1,-1,17", "4,A,-1,1,17", "C4,A,1,1,17", "5,A,0,1,17"},
			[]string{"17: order 1 A*2@150"}, map[string]int64{noCustomer: 1, notAnOrder: 1, noPrice: 2, badQuantity: 3}, figures{},
		},
		{
			"a credit takes the newest order first, and goes on with older ones",
			[]string{"1,A,5,1,17", "2,A,2,1,17", "3,A,9,1,18", "C4,A,-4,1,17"},
			[]string{"17: order 1 A*5@100", "17: order 2 A*2@100", "18: order 3 A*9@100", "17: C4 of 2 A*2@100", "17: C4 of 1 A*2@100"}, nil, figures{},
		},
		{
			"what was bought before the files, by somebody else, at another price or later is unmatched",
			[]string{"C1,A,-1,1,17", "2,A,1,1,18", "3,A,1,2,17", "C4,A,-5,1,17", "5,A,1,1,17"},
			[]string{"18: order 2 A*1@100", "17: order 3 A*1@200", "17: order 5 A*1@100"}, nil, figures{6, 600},
		},
		{
			"nothing is returned twice",
			[]string{"1,A,3,1,17", "C2,A,-2,1,17", "C3,A,-2,1,17"},
			[]string{"17: order 1 A*3@100", "17: C2 of 1 A*2@100", "17: C3 of 1 A*1@100"}, nil, figures{1, 100},
		},
		{
			"all that a credit takes of an order is one return",
			[]string{"1,A,3,1,17", "1,B,1,2,17", "C2,A,-1,1,17", "C2,B,-1,2,17", "C2,A,-1,1,17"},
			[]string{"17: order 1 A*3@100 B*1@200", "17: C2 of 1 A*2@100 B*1@200"}, nil, figures{},
		},
		{
			"an invoice that goes on after others is one order, and its credit sees what came before",
			[]string{"1,A,1,1,17", "C9,A,-2,1,17", "1,A,1,1,18"},
			[]string{"17: order 1 A*2@100", "17: C9 of 1 A*1@100"}, nil, figures{1, 100},
		},
		{
			"prices are rounded half to even",
			[]string{"1,A,1,0.125,17", "1,B,1,0.135,17", "1,C,1,0.1251,17", "1,D,1,2.675,17", "1,E,1,0.005,17", "1,F,1,1e0,", "1,G,1,.5,17", "1,H,1,7,17"},
			[]string{"17: order 1 A*1@12 B*1@14 C*1@13 D*1@268 G*1@50 H*1@700"}, map[string]int64{noCustomer: 1, noPrice: 1}, figures{},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := planOf(t, rows(test.rows...))
			if diff := cmp.Diff(test.steps, flat(p)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.skipped, p.skipped, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
			if p.unmatched != test.unmatched {
				t.Errorf("got unmatched %v, want %v", p.unmatched, test.unmatched)
			}
		})
	}
}

func TestParsePence(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"2.55": 255, "0": 0, "0.00": 0, "-1.005": -100, "-1.015": -102, "+3": 300, " 4.2 ": 420, "0.0050": 0, "0.00500001": 1, "0.015": 2,
		"00012.5": 1250, "5.": 500, "11062.06": 1106206, "0.995": 100, "0.994999999999999999999999999999999": 99, "1000000000": maxPence,
	} {
		if got, err := parsePence(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".", "-", "+-1", "--1", "1,5", "1.2.3", "1e3", "NaN", "0x1", "£1", "1000000000.01", "99999999999999999999", "1 2", "٣"} {
		if got, err := parsePence(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestReadForms(t *testing.T) {
	t.Parallel()
	const order = `1,A,"A ""BIG"", RED` + "\n" + `THING ",1,2010-12-01 08:26:00,1.0,17,UK` + "\n"
	plain := head + order
	want := planOf(t, plain)
	if got := want.Products[0].Name; got != `A "BIG", RED THING` {
		t.Errorf("got name %q", got)
	}
	for name, content := range map[string]string{
		"gzip":             zipped(t, plain),
		"gzip in parts":    zipped(t, head) + zipped(t, order),
		"byte order mark":  "\ufeff" + plain,
		"mark within gzip": zipped(t, "\ufeff"+plain),
		"CRLF":             strings.ReplaceAll(strings.ReplaceAll(plain, "\n", "\r\n"), "RED\r\n", "RED\n"),
		"other columns":    "Country,CustomerID,UnitPrice,InvoiceDate,Quantity,Description,StockCode,InvoiceNo,More\n" + `UK,17,1.0,2010-12-01 08:26:00,1,"A ""BIG"", RED` + "\nTHING \",A,1,?\n",
		"empty lines":      head + "\n" + order + "\n\n",
	} {
		got := planOf(t, content)
		if diff := cmp.Diff(flat(want), flat(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Fingerprint != want.Fingerprint {
			t.Errorf("%s: got another fingerprint", name)
		}
	}
	if planOf(t, head+strings.Replace(order, "A,", "B,", 1)).Fingerprint == want.Fingerprint {
		t.Error("another file has the same fingerprint")
	}
	if o := want.Orders[0]; !o.Time.Equal(time.Date(2010, 12, 1, 8, 26, 0, 0, time.UTC)) {
		t.Errorf("got time %s", o.Time)
	}
	// A bare quotation mark is an inch.
	if got := planOf(t, head+`1,A,RULER 12" LONG,1,2010-12-01 08:26:00,1.0,17,UK`+"\n").Products[0].Name; got != `RULER 12" LONG` {
		t.Errorf("got name %q", got)
	}
}

func TestProducts(t *testing.T) {
	t.Parallel()
	p := planOf(t, head+
		"1,A,,2,2010-12-01 08:26:00,1.0,17,UK\n"+
		"1,B,  \t ,1,2010-12-01 08:26:00,3,17,UK\n"+
		"2,A,first\x07name ,1,2010-12-01 08:26:00,2.0,17,UK\n"+
		"3,A,second name,1,2010-12-01 08:26:00,3.0,17,UK\n"+
		"C4,D,"+strings.Repeat("£", 300)+",-1,2010-12-01 08:26:00,3.0,17,UK\n")
	want := []Product{{"A", "first name", 100, 4}, {"B", "B", 300, 1}, {"D", strings.Repeat("£", 200), 300, 0}}
	if diff := cmp.Diff(want, p.Products); diff != "" {
		t.Errorf("products (-want +got):\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	good := "1,A,X,1,2010-12-01 08:26:00,1.0,17,UK\n"
	cut := zipped(t, head+strings.Repeat(good, 100))
	for _, test := range []struct{ name, content, says string }{
		{"empty", "", "is empty"},
		{"no such column", "InvoiceNo,StockCode\n", "no column Description"},
		{"too few fields", head + good + "1,A,X\n", "line 3: wrong number of fields"},
		{"too many fields", head + "1,A,X,1,2010-12-01 08:26:00,1.0,17,UK,?\n", "wrong number of fields"},
		{"price", head + good + "1,A,X,1,2010-12-01 08:26:00,cheap,17,UK\n", `line 3: the UnitPrice "cheap"`},
		{"quantity", head + "1,A,X,1.5,2010-12-01 08:26:00,1,17,UK\n", `line 2: the Quantity "1.5"`},
		{"large quantity", head + "1,A,X,1000001,2010-12-01 08:26:00,1,17,UK\n", "is beyond 1000000"},
		{"customer", head + "1,A,X,1,2010-12-01 08:26:00,1,Smith,UK\n", `the CustomerID "Smith"`},
		{"half a customer", head + "1,A,X,1,2010-12-01 08:26:00,1,17.5,UK\n", `the CustomerID "17.5"`},
		{"negative customer", head + "1,A,X,1,2010-12-01 08:26:00,1,-17,UK\n", `the CustomerID "-17"`},
		{"time", head + "1,A,X,1,yesterday,1,17,UK\n", `the InvoiceDate "yesterday"`},
		{"no invoice", head + ",A,X,1,2010-12-01 08:26:00,1,17,UK\n", "InvoiceNo is empty"},
		{"no code", head + "1,,X,1,2010-12-01 08:26:00,1,17,UK\n", "StockCode is empty"},
		{"open quote", head + `1,A,"X,1,2010-12-01 08:26:00,1,17,UK` + "\n", "wrong number of fields"},
		{"broken gzip", cut[:len(cut)-20], "unexpected EOF"},
		{"no gzip", "\x1f\x8bnonsense", "gzip"},
		{"too much money", head + strings.Repeat("1,A,X,1000000,2010-12-01 08:26:00,1000000000,17,UK\n", 100), "too large to be added up"},
		{"too much unmatched money", head + strings.Repeat("C1,A,X,-1000000,2010-12-01 08:26:00,1000000000,17,UK\n", 100), "too large to be added up"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := newBuilder().add("file.csv", strings.NewReader(test.content))
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "file.csv: ") {
				t.Errorf("got %v, want file.csv: … %s", err, test.says)
			}
		})
	}
	if _, err := Load(nil); err == nil {
		t.Error("got no error for no files")
	}
	if _, err := Load([]string{filepath.Join(t.TempDir(), "none.csv")}); !os.IsNotExist(err) {
		t.Errorf("got %v, want no such file", err)
	}
	b := newBuilder()
	if err := b.add("file.csv", strings.NewReader(head+"C1,A,X,-1,2010-12-01 08:26:00,1,17,UK\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.plan(); err == nil {
		t.Error("got no error for files without an order")
	}
}

// The form of the report is that of the published figures, character for character.
func TestReportForm(t *testing.T) {
	t.Parallel()
	p := planOf(t, rows("1,B,2,1.50,9", "1,A,1,1,9", "2,B,1,1.50,10", "C3,B,-1,1.50,9", "C3,B,-1,1.50,10", "4,Z,1,1,", "C5,Q,-2,0.5,9"))
	got, err := json.MarshalIndent(p.Expected(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "rows": 7,
 "skipped": {
  "no_customer": 1
 },
 "customers": 2,
 "products": 3,
 "products_sold": 2,
 "orders": 2,
 "lines": 3,
 "largest_order_lines": 2,
 "units_sold": 4,
 "paid_pence": 550,
 "refunded_units": 2,
 "refunded_pence": 300,
 "unmatched_units": 2,
 "unmatched_pence": 100,
 "orders_by_return": {
  "partly_returned": 1,
  "returned": 1
 },
 "customers_sha256": "38d04ff00b13e7527f1c86d2cbfd18243670226a84aab7201b57e984e733b038",
 "stock_sha256": "02b43033e2d98db9fe508f4ac2c5f848b4465212064d926518eba69d70ec2fea"
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	want := planOf(t, rows("1,B,2,1.50,9")).Expected()
	if got := want.Differences(want); len(got) > 0 {
		t.Errorf("got %q for the same report", got)
	}
	other := planOf(t, rows("1,B,1,1.50,9", "C2,B,-1,1.50,9")).Expected()
	got := want.Differences(other)
	for _, name := range []string{"rows", "units_sold", "paid_pence", "refunded_units", "refunded_pence", "orders_by_return.kept", "orders_by_return.returned", "customers_sha256", "stock_sha256"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, name+" is ") }) {
			t.Errorf("%s is not among %q", name, got)
		}
	}
	if len(got) != 9 {
		t.Errorf("got %d differences, want 9: %q", len(got), got)
	}
}

func zipped(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// dataDir is where the real files are, or the test is skipped.
func dataDir(t *testing.T) string {
	t.Helper()
	var tried []string
	if dir := os.Getenv("BANYAN_TEST_RETAIL_DATA"); dir != "" {
		tried = []string{dir}
	} else {
		for _, above := range []string{"", "..", "../.."} { // of the repository
			tried = append(tried, filepath.Join("..", "..", "..", above, "shared", "data", "online-retail"))
		}
	}
	for _, dir := range tried {
		if _, err := os.Stat(filepath.Join(dir, "expected.json")); err == nil {
			return dir
		}
	}
	t.Skipf("no Online Retail files in %s; say where they are with BANYAN_TEST_RETAIL_DATA", strings.Join(tried, ", "))
	return ""
}

// The real files give exactly the figures that were published with them, which another program has computed.
func TestRealFiles(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]json.RawMessage
	if err := json.Unmarshal(raw, &expected); err != nil {
		t.Fatal(err)
	}
	for name, months := range map[string][]string{
		"2010-12":          {"2010-12"},
		"2010-12..2011-08": {"2010-12", "2011-01", "2011-02", "2011-03", "2011-04", "2011-05", "2011-06", "2011-07", "2011-08"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if len(months) > 1 && testing.Short() {
				t.Skip("nine months take seconds; not with -short")
			}
			var files []string
			for _, m := range months {
				files = append(files, filepath.Join(dir, m+".csv.gz"))
			}
			p, err := Load(files)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(p.Expected(), " ", " ")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(expected[name]), string(got)); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			t.Log(p)
		})
	}
}
