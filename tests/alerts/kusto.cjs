// Asks Microsoft's own parser of the Kusto Query Language: a JSON list of queries on standard input, their faults on standard output.
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");

const { GlobalState, KustoCode, Symbols } = Kusto.Language;

// The columns of Application Insights' traces that are used.
const traces = Symbols.TableSymbol.From("(timestamp: datetime, message: string)").WithName("traces");
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.$ctor1("insights", [traces], false));
const queries = JSON.parse(require("fs").readFileSync(0, "utf-8"));

const faults = queries.map((query) => {
  const found = KustoCode.ParseAndAnalyze(query, globals).GetDiagnostics();
  return Array.from({ length: found.Count }, (_, number) => found.getItem(number).Message);
});
process.stdout.write(JSON.stringify(faults));
