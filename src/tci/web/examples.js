// Programs to begin with. Each shows a kind of output.

export const EXAMPLES = {
  "Plot a chart": `import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(0, 4 * np.pi, 400)

plt.figure(figsize=(7, 4))
for phase in np.linspace(0, np.pi / 2, 5):
    plt.plot(x, np.sin(x + phase) * np.exp(-x / 8))
plt.title("Damped waves")
plt.grid(alpha=0.3)
plt.show()
`,
  "Show a table": `import numpy as np
import pandas as pd

random = np.random.default_rng(7)
sales = pd.DataFrame({
    "region": random.choice(["North", "South", "East", "West"], 200),
    "units": random.integers(1, 40, 200),
    "price": random.uniform(5, 50, 200).round(2),
})
sales["revenue"] = sales["units"] * sales["price"]
print(f"{len(sales)} sales")
sales.groupby("region")[["units", "revenue"]].sum().round(2)
`,
  "Keep state between runs": `# Run this twice: a session keeps its variables and files.
try:
    runs += 1
except NameError:
    runs = 1

with open("runs.txt", "a") as file:
    file.write(f"run {runs}\\n")

print(f"This is run {runs} of the session.")
`,
  "Read your files": `# Drop a file below, then run.
from pathlib import Path

files = sorted(path for path in Path(".").rglob("*") if path.is_file())
for path in files:
    print(f"{path.stat().st_size:>10,}  {path}")
if not files:
    print("No files yet.")
`,
  "Install a package": `!pip install -q humanize
import humanize

print(humanize.naturalsize(123_456_789))
`,
  "Raise an error": `def ratio(a, b):
    return a / b

print("Errors come back as text; the session goes on.")
ratio(1, 0)
`,
};
